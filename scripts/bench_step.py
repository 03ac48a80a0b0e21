"""Benchmark of EAC's training, from images to optimizer step: the reference recipe against fer. Prints ratios.

    python scripts/bench_step.py [--depth 18 50] [--steps 4] [--rounds 3] [--fast KEY=VALUE ...] [--json FILE]
    python scripts/bench_step.py --depth 50 --steps 16 --batch-size 256 --profile --fast trainer.precision=bf16-mixed \
        --fast trainer.precision=bf16-mixed compile=reduce-overhead

The contestants take turns in one process on the same images, batch size, network and erasing recipe:

- reference: ``reference_recipe.py``, once with ``--workers`` processes, which its loader restarts in every epoch, and
  once without workers;
- faithful: ``fer-train``'s defaults in Lightning's Trainer; the same mathematics up to float rounding, which is checked
  before the timing;
- fast: faithful with the settings after ``--fast``, which may be given several times.

A step sees every face twice; samples/s counts it once and excludes the wait for an epoch's first batch, which is shown
as "start". "data" is the share of the step that waits for views. "peak" is the step's arithmetic rate, from counted
operations, as a share of the rate of a large matrix product of the same precision on this machine (of a TF32 product
on a GPU whose convolutions round float32 to TF32). ``--profile`` shows the GPU's work in this project's steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from reference_recipe import ReferenceFaces, ReferenceNetwork, ReferenceTraining, reference_loss
from torch.utils.flop_counter import FlopCounterMode

from fer.config.compose import compose
from fer.config.settings import read_settings
from fer.files.terminal import log_to_terminal
from fer.launch.malloc import give_back_freed_memory, keep_freed_memory
from fer.launch.run_job import resolve
from fer.runs.run_folder import RunFolder
from fer.training.build import build_method
from fer.training.callbacks.finite_losses import StepLosses
from fer.training.callbacks.seeding import Seeding
from fer.training.experiment import Experiment, build
from fer.views.batch import Batch

LAM = 5.0
SIZE = 224
FAST = ["trainer.precision=bf16-mixed"]
KERNELS = {
    "compiled": ("triton",),
    "convolution": ("conv", "gemm", "wgrad", "dgrad", "fprop", "cutlass", "xmma", "sm90_", "sm80_", "nvjet"),
    "batch norm": ("batch_norm", "batchnorm", "::bn_"),
    "optimizer": ("adam", "multi_tensor"),
    "copy": ("memcpy", "memset", "copy_"),
    "else": ("",),
}
"""Kinds of kernels by words in their names; the first that fits counts."""


@dataclass
class Turn:
    """Measurements of a contestant in one turn."""

    start_seconds: float
    step_seconds: float
    data_seconds: float
    peak_memory_mb: float


@dataclass
class Contestant:
    """An implementation of training; ``run(steps)`` trains ``steps`` steps and times all but the first ones."""

    name: str
    precision: torch.dtype
    run: Callable[[int], Turn]
    clock: StepClock | None = None
    """Step clock, only for this project's contestants."""
    turns: list[Turn] = field(default_factory=list)

    def median(self, what: str) -> float:
        return statistics.median(getattr(turn, what) for turn in self.turns)


class Meter:
    """Time and memory of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """Return the time in seconds after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark falls to what is held now

    def peak_mb(self) -> float:
        """Return the peak memory of the GPU in MB; on a CPU that of this process, without its loader workers."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        with contextlib.suppress(OSError):
            status = Path("/proc/self/status").read_text()
            return float(status.partition("VmHWM:")[2].split()[0]) / 1e3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


class StepClock(L.Callback):
    """Callback that times an epoch's steps after the first ``untimed`` ones; it can profile them too."""

    def __init__(self, meter: Meter, untimed: int) -> None:
        self.meter = meter
        self.untimed = untimed
        self.times: dict[str, float] = {}
        self.profiler: torch.profiler.profile | None = None

    def on_train_epoch_start(self, *_: Any) -> None:
        self.times["asked"] = self.meter.now()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.times["first batch"] = self.meter.now()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.untimed - 1:
            self.times["timed from"] = self.meter.now()
            if self.profiler is not None:
                self.profiler.start()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.times["end"] = self.meter.now()
        if self.profiler is not None:
            self.profiler.stop()


def set_flags(*, deterministic: bool | str, benchmark: bool) -> None:
    """Set the process-wide flags that a Trainer sets when it is built, for all contestants."""
    torch.use_deterministic_algorithms(bool(deterministic), warn_only=deterministic == "warn")
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = bool(deterministic)


def reference_contestant(training: ReferenceTraining, meter: Meter, untimed: int) -> Contestant:
    def run(steps: int) -> Turn:
        set_flags(deterministic=False, benchmark=False)
        torch.backends.cudnn.deterministic = True  # as released
        give_back_freed_memory()
        meter.forget_peak()
        asked = meter.now()
        batches = iter(training.loader)
        views = next(batches)
        start = meter.now() - asked
        training.step(views)
        for _ in range(untimed - 1):
            training.step(next(batches))
        waited, timed_from = 0.0, meter.now()
        for _ in range(steps - untimed):
            asked = time.perf_counter()
            views = next(batches)
            waited += time.perf_counter() - asked
            training.step(views)
        step_seconds = (meter.now() - timed_from) / (steps - untimed)
        return Turn(start, step_seconds, waited / (steps - untimed), meter.peak_mb())

    return Contestant(f"reference, {training.loader.num_workers} workers", torch.float32, run)


def our_contestant(name: str, experiment: Experiment, meter: Meter, untimed: int = 1) -> Contestant:
    trainer, method, datamodule = experiment.trainer, experiment.method, experiment.datamodule
    clock = StepClock(meter, untimed)
    trainer.callbacks += [Seeding(0), StepLosses(), clock]  # as in fer-train

    def seconds_for_views() -> float:
        """Measure fetching and augmenting a batch separately, since the Trainer does both inside the step."""
        batches = datamodule.train_dataloader()
        method.augmentation.to(meter.device)  # from where the Trainer takes it back
        asked = meter.now()
        for number, batch in enumerate(batches):
            method.make_views(batch.image.to(meter.device))
            if number == 0:
                asked = meter.now()  # the first one touches new memory
            if number == 5:
                break
        return (meter.now() - asked) / number

    def run(steps: int) -> Turn:
        options = experiment.settings.trainer.node
        set_flags(deterministic=options["deterministic"], benchmark=options["benchmark"])
        keep_freed_memory()  # as fer-train does
        meter.forget_peak()
        trainer.fit_loop.epoch_loop.max_steps = -1
        trainer.limit_train_batches = steps
        trainer.fit_loop.max_epochs = trainer.current_epoch + 1
        trainer.fit(method, datamodule=datamodule)
        peak = meter.peak_mb()
        times = clock.times
        step_seconds = (times["end"] - times["timed from"]) / (steps - untimed)
        return Turn(times["first batch"] - times["asked"], step_seconds, seconds_for_views(), peak)

    precision = (
        torch.bfloat16 if str(experiment.settings.trainer.node["precision"]).startswith("bf16") else torch.float32
    )
    return Contestant(name, precision, run, clock)


def our_experiment(overrides: Sequence[str], folder: Path) -> Experiment:
    """Build a run that can train, but neither logs nor writes checkpoints."""
    settings = read_settings(resolve(compose([*overrides]), {}))
    experiment = build(settings, RunFolder(folder), for_training=False)
    train = experiment.datamodule.train
    method = build_method(
        settings,
        experiment.datamodule.table.class_names,
        torch.from_numpy(train.given),
        labels_are_clean=train.labels_are_clean,
        for_training=True,
    )
    return replace(experiment, method=method)


def difference_of_losses(experiment: Experiment, depth: int, device: torch.device) -> float:
    """Compute the relative difference between reference and project losses on the same weights and views."""
    method = experiment.method.to(device).train()
    batch = next(iter(experiment.datamodule.train_dataloader()))
    batch = Batch(*(tensor.to(device) for tensor in batch))
    views = method.make_views(batch.image)
    network = ReferenceNetwork(depth, method.num_classes).to(device).train()
    # The names differ, the order of the tensors does not.
    network.load_state_dict(dict(zip(network.state_dict(), method.network.state_dict().values(), strict=True)))
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        expected = reference_loss(network, *views, batch.label, LAM)[0].double()
        found = method.loss(batch.seen_as(*views)).total.double()
    return float((found - expected).abs() / expected)


def operations_of_a_step(training: ReferenceTraining) -> float:
    """Count the floating-point operations of a training step, per face, forward and backward."""
    faces = 2
    view = torch.zeros(faces, 3, SIZE, SIZE, device=training.device)
    with FlopCounterMode(display=False) as counter:
        label = torch.zeros(faces, dtype=torch.int64, device=training.device)
        reference_loss(training.network, view, view, label, LAM)[0].backward()
    training.optimizer.zero_grad()
    return counter.get_total_flops() / faces


def peak_rate(precision: torch.dtype, meter: Meter) -> float:
    """Measure the operations per second of a large matrix product, the best of several."""
    edge = 8192 if meter.device.type == "cuda" else 2048
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    left, right = (torch.randn(edge, edge, device=meter.device).to(precision) for _ in range(2))
    seconds = []
    for _ in range(4):
        started = meter.now()
        left @ right
        seconds.append(meter.now() - started)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * edge**3 / min(seconds)


def profile(contestant: Contestant, steps: int) -> None:
    """Print what a GPU did in a turn's timed steps: how long it worked, and on what."""
    clock = contestant.clock
    assert clock is not None
    clock.profiler = profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    step = 1e3 * contestant.run(steps).step_seconds
    clock.profiler = None
    times = dict.fromkeys(KERNELS, 0.0)
    for event in profiler.key_averages():
        name = event.key.lower()
        kind = next(kind for kind, words in KERNELS.items() if any(word in name for word in words))
        times[kind] += event.self_device_time_total / 1e3 / (steps - clock.untimed)
    shares = ", ".join(f"{kind} {milliseconds:.2f}" for kind, milliseconds in times.items())
    busy = sum(times.values())
    print(f"\n{contestant.name}, profiled: {step:.2f} ms a step, in which the GPU works {busy:.2f}: {shares}")
    print(profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=16, max_name_column_width=80))


def compare(depth: int, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Let all contestants take turns with one network; print and return what they did."""
    meter = Meter(device)
    overrides = [
        f"backbone=resnet{depth}",
        f"augment.size={SIZE}",
        f"method.erase={options.erase}",
        f"method.lam={LAM}",
        f"batch_size={options.batch_size}",
        f"data.reader.train={max(options.faces, (options.steps + 1) * options.batch_size)}",
        "trainer.max_epochs=1",
        f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}",
        "+trainer.limit_val_batches=0",
        "trainer.enable_progress_bar=false",
        *options.overrides,
    ]
    with tempfile.TemporaryDirectory() as folder:
        faithful = our_experiment(overrides, Path(folder))
        fast = [our_experiment([*overrides, *settings], Path(folder)) for settings in options.fast]
        difference = difference_of_losses(faithful, depth, device)
        print(f"\nResNet-{depth}, {SIZE} px, batch {options.batch_size}, erase {options.erase}: ", end="")
        print(f"losses of reference and faithful differ by {difference:.1e}")
        table, split = faithful.datamodule.table, faithful.datamodule.train
        faces = ReferenceFaces([table.paths[row] for row in split.rows], split.given, size=SIZE, erase=options.erase)
        trainings = [
            ReferenceTraining(
                faces, depth=depth, num_classes=table.num_classes, batch_size=options.batch_size, workers=workers,
                device=device, lr=1e-4, lam=LAM,
            )
            for workers in (options.workers, 0)
        ]  # fmt: skip
        operations = operations_of_a_step(trainings[0])
        contestants = [reference_contestant(training, meter, options.untimed) for training in trainings]
        contestants.append(our_contestant("faithful", faithful, meter, options.untimed))
        for number, (settings, experiment) in enumerate(zip(options.fast, fast, strict=True), start=1):
            name = f"fast {number}" if len(fast) > 1 else "fast"
            print(f"{name}: {' '.join(settings)}")
            contestants.append(our_contestant(name, experiment, meter, options.untimed))
        for contestant in contestants:
            asked = time.perf_counter()
            contestant.run(options.untimed + 1)  # compiles, and fills caches
            print(f"  {contestant.name} ready after {time.perf_counter() - asked:.0f} s", flush=True)
        for number in range(options.rounds):
            for contestant in contestants:
                contestant.turns.append(contestant.run(options.steps))
                print(
                    f"  round {number + 1}: {contestant.name} {contestant.turns[-1].step_seconds:.4f} s a step",
                    flush=True,
                )
        if options.profile:
            for contestant in contestants[len(trainings) :]:
                profile(contestant, options.steps)
    return report(contestants, operations, options.batch_size, meter) | {"difference of losses": difference}


def report(contestants: list[Contestant], operations: float, batch_size: int, meter: Meter) -> dict[str, Any]:
    peaks = {precision: peak_rate(precision, meter) for precision in {c.precision for c in contestants}}
    first = contestants[0]
    titles = ("start s", "samples/s", f"to {first.name}", "to reference, 0 workers", "data", "peak", "memory MB")
    print(f"{'':24}" + "".join(f"{title:>25}" if len(title) > 12 else f"{title:>12}" for title in titles))
    found: dict[str, Any] = {"GFLOP per face": operations / 1e9, "contestants": {}}
    for contestant in contestants:
        step = contestant.median("step_seconds")
        ratios = [other.median("step_seconds") / step for other in contestants[:2]]
        share = operations * batch_size / step / peaks[contestant.precision]
        data = contestant.median("data_seconds") / step
        print(
            f"{contestant.name:24}{contestant.median('start_seconds'):12.2f}{batch_size / step:12.1f}"
            f"{ratios[0]:25.2f}{ratios[1]:25.2f}{data:12.1%}{share:12.0%}{contestant.median('peak_memory_mb'):12.0f}"
        )
        found["contestants"][contestant.name] = {
            "samples per second": batch_size / step,
            "ratio to reference with workers": ratios[0],
            "ratio to reference without workers": ratios[1],
            "share of the step for data": data,
            "share of peak": share,
            "peak GFLOP/s": peaks[contestant.precision] / 1e9,
            "turns": [asdict(turn) for turn in contestant.turns],
        }
    return found


def processor() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0].strip("\t :")
    return platform.processor()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, nargs="+", default=[18, 50], help="depths of the ResNet")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--erase", choices=("shared", "independent"), default="independent")
    parser.add_argument("--steps", type=int, default=4, help="timed steps per turn")
    parser.add_argument("--untimed", type=int, default=1, help="first steps of a turn (CUDA graphs are recorded in 3)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="workers of the reference's loader (released code: 4)")
    parser.add_argument("--faces", type=int, default=1400, help="demo faces to draw from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fast", nargs="*", action="append", metavar="KEY=VALUE", help=f"default: {' '.join(FAST)}")
    parser.add_argument("--overrides", nargs="*", default=[], metavar="KEY=VALUE", help="for faithful and fast")
    parser.add_argument("--profile", action="store_true", help="on a GPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if not 1 <= options.untimed < options.steps:
        parser.error("--steps must be more than --untimed, which is 1 or more")
    options.fast = options.fast or [FAST]
    device = torch.device(options.device)
    if options.profile and device.type != "cuda":
        parser.error("--profile needs a GPU")
    log_to_terminal()  # silences what Lightning says of every Trainer
    found: dict[str, Any] = {
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "lightning": L.__version__,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
        },
        "batch size": options.batch_size,
        "fast": options.fast,
    }
    print(json.dumps(found["machine"]))
    for depth in options.depth:
        found[f"resnet{depth}"] = compare(depth, options, device)
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
