"""EAC's whole training, from images to optimiser step: the reference recipe against this project. Prints ratios.

    python scripts/bench_step.py [--depth 18 50] [--steps 4] [--rounds 3] [--fast KEY=VALUE ...] [--json FILE]

The contestants take turns in one process on the same images, batch size, network and erasing recipe:

- reference: ``reference_recipe.py``, with ``--workers`` processes that its loader starts anew in every epoch, and
  with none;
- faithful: ``fer-train``'s defaults in Lightning's Trainer, the same mathematics to float rounding, which is checked
  before anything is timed;
- fast: faithful with the settings after ``--fast``.

A step sees every face twice; samples/s counts it once, without the wait for an epoch's first batch, which stands
under "start". "data" is the share of the step in which it waits for its views. "peak" is the share of the arithmetic
rate that a large matrix product of the same precision reaches on this machine, from counted operations.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from reference_recipe import ReferenceFaces, ReferenceNetwork, ReferenceTraining, reference_loss
from torch.utils.flop_counter import FlopCounterMode

from fer.batch import Batch
from fer.config import compose
from fer.experiment import Experiment, build
from fer.host_memory import give_back_freed_memory, keep_freed_memory
from fer.launch import resolve
from fer.runs import RunFolder
from fer.terminal import log_to_terminal

LAM = 5.0
SIZE = 224
FAST = ["trainer.precision=bf16-mixed"]


@dataclass
class Turn:
    """What a contestant did in one turn."""

    start_seconds: float
    step_seconds: float
    data_seconds: float
    peak_memory_mb: float


@dataclass
class Contestant:
    """A way to train; ``run(steps)`` trains so many steps and times all but the first."""

    name: str
    precision: torch.dtype
    run: Callable[[int], Turn]
    turns: list[Turn] = field(default_factory=list)

    def median(self, what: str) -> float:
        return statistics.median(getattr(turn, what) for turn in self.turns)


class Meter:
    """Time and memory of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """Seconds, once the device has done what was asked of it."""
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
        """Peak memory on a GPU; on a CPU that of this process, loader workers apart."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        with contextlib.suppress(OSError):
            status = Path("/proc/self/status").read_text()
            return float(status.partition("VmHWM:")[2].split()[0]) / 1e3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


class StepClock(L.Callback):
    """Times an epoch's steps after the first."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.times: dict[str, float] = {}

    def on_train_epoch_start(self, *_: Any) -> None:
        self.times["asked"] = self.meter.now()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.times["first batch"] = self.meter.now()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.times["first step"] = self.meter.now()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.times["end"] = self.meter.now()


def reference_contestant(training: ReferenceTraining, meter: Meter) -> Contestant:
    def run(steps: int) -> Turn:
        give_back_freed_memory()
        meter.forget_peak()
        asked = meter.now()
        batches = iter(training.loader)
        views = next(batches)
        start = meter.now() - asked
        training.step(views)
        waited, timed_from = 0.0, meter.now()
        for _ in range(steps - 1):
            asked = time.perf_counter()
            views = next(batches)
            waited += time.perf_counter() - asked
            training.step(views)
        step_seconds = (meter.now() - timed_from) / (steps - 1)
        return Turn(start, step_seconds, waited / (steps - 1), meter.peak_mb())

    return Contestant(f"reference, {training.loader.num_workers} workers", torch.float32, run)


def our_contestant(name: str, experiment: Experiment, meter: Meter) -> Contestant:
    trainer, method, datamodule = experiment.trainer, experiment.method, experiment.datamodule
    clock = StepClock(meter)
    trainer.callbacks.append(clock)

    def seconds_for_views() -> float:
        """Fetching and augmenting a batch; on its own, since the Trainer does both inside the step."""
        batches = datamodule.train_dataloader()
        asked = meter.now()
        for number, batch in enumerate(batches):
            method.make_views(batch.image.to(meter.device))
            if number == 0:
                asked = meter.now()  # the first one touches new memory
            if number == 5:
                break
        return (meter.now() - asked) / number

    def run(steps: int) -> Turn:
        keep_freed_memory()  # as fer-train does
        meter.forget_peak()
        trainer.fit_loop.epoch_loop.max_steps = -1
        trainer.limit_train_batches = steps
        trainer.fit_loop.max_epochs = trainer.current_epoch + 1
        trainer.fit(method, datamodule=datamodule)
        peak = meter.peak_mb()
        times = clock.times
        step_seconds = (times["end"] - times["first step"]) / (steps - 1)
        return Turn(times["first batch"] - times["asked"], step_seconds, seconds_for_views(), peak)

    precision = torch.bfloat16 if str(experiment.config["trainer"]["precision"]).startswith("bf16") else torch.float32
    return Contestant(name, precision, run)


def our_experiment(overrides: Sequence[str], folder: Path) -> Experiment:
    config = resolve(compose([*overrides]), {})
    return build(config, RunFolder(folder), for_training=False)


def difference_of_losses(experiment: Experiment, depth: int, device: torch.device) -> float:
    """Relative difference of the losses that reference and project find on the same weights and views."""
    method = experiment.method.to(device).train()
    batch = next(iter(experiment.datamodule.train_dataloader()))
    batch = Batch(*(tensor.to(device) for tensor in batch))
    views = method.make_views(batch.image)
    network = ReferenceNetwork(depth, method.num_classes).to(device).train()
    # The names differ, the order of the tensors does not.
    network.load_state_dict(dict(zip(network.state_dict(), method.network.state_dict().values(), strict=True)))
    with torch.no_grad():
        expected = reference_loss(network, *views, batch.label, LAM)[0].double()
        found = method.loss(batch._replace(image=views)).total.double()
    return float((found - expected).abs() / expected)


def operations_of_a_step(training: ReferenceTraining) -> float:
    """Counted floating-point operations of a training step, per face, forward and backward."""
    faces = 2
    view = torch.zeros(faces, 3, SIZE, SIZE, device=training.device)
    with FlopCounterMode(display=False) as counter:
        label = torch.zeros(faces, dtype=torch.int64, device=training.device)
        reference_loss(training.network, view, view, label, LAM)[0].backward()
    training.optimizer.zero_grad()
    return counter.get_total_flops() / faces


def peak_rate(precision: torch.dtype, meter: Meter) -> float:
    """Operations per second of a large matrix product, the best of several."""
    edge = 8192 if meter.device.type == "cuda" else 2048
    left, right = (torch.randn(edge, edge, device=meter.device).to(precision) for _ in range(2))
    seconds = []
    for _ in range(4):
        started = meter.now()
        left @ right
        seconds.append(meter.now() - started)
    return 2 * edge**3 / min(seconds)


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
        fast = our_experiment([*overrides, *options.fast], Path(folder))
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
        contestants = [reference_contestant(training, meter) for training in trainings]
        contestants += [our_contestant("faithful", faithful, meter), our_contestant("fast", fast, meter)]
        for contestant in contestants:
            contestant.run(2)  # compiles, and fills caches
        for number in range(options.rounds):
            for contestant in contestants:
                contestant.turns.append(contestant.run(options.steps))
            print(
                f"  round {number + 1}: " + ", ".join(f"{c.name} {c.turns[-1].step_seconds:.3f} s" for c in contestants)
            )
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
    parser.add_argument("--depth", type=int, nargs="+", default=[18, 50], help="of the ResNet")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--erase", choices=("shared", "independent"), default="independent")
    parser.add_argument("--steps", type=int, default=4, help="per turn, the first of which is not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of the reference's loader (as released: 4)")
    parser.add_argument("--faces", type=int, default=1400, help="demo faces to draw from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fast", nargs="*", default=FAST, metavar="KEY=VALUE", help=f"default: {' '.join(FAST)}")
    parser.add_argument("--overrides", nargs="*", default=[], metavar="KEY=VALUE", help="for faithful and fast")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if options.steps < 2:
        parser.error("--steps needs 2 or more: the first is not timed")
    device = torch.device(options.device)
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
