"""Benchmark of overheads: of a sweep beyond its jobs, and of a run beyond its imports. Prints seconds and ratios.

    python scripts/bench_sweep.py [--jobs 8] [--rounds 3] [--json FILE]

Sweep: the same tiny jobs as a loop of single commands; as one sweep with Hydra's basic launcher; and as one sweep on
two workers (hydra/launcher=cpus, which needs Ray). Every job has one thread.
Start: the time from the command to the first training step, for a run and for a sweep, compared with a process that
only imports torch and Lightning. The contestants take turns; the medians are printed after every round (5 minutes each
on two cores).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L

TINY = [
    "data.reader.train=128",
    "data.reader.test=64",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "logger=none",
    "callbacks=none",
]


class FirstStep(L.Callback):
    """Callback that writes the time of the first training step to a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_start(self, *_: Any) -> None:
        if not self.path.exists():
            self.path.write_text(repr(time.time()))


def run(*arguments: str) -> None:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def sweeps(jobs: int, output: Path) -> dict[str, Callable[[], None]]:
    """Make the contestants by name; each writes to a folder of its own."""

    def by_hand() -> None:
        for seed in range(jobs):
            run("-m", "fer.cli.train", *TINY, f"output_dir={output}/by_hand", f"seed={seed}")

    def sweep(name: str, *launcher: str) -> Callable[[], None]:
        return lambda: run(
            "-m", "fer.cli.train", "-m", *TINY, *launcher, f"output_dir={output}/{name}", f"seed=range({jobs})"
        )

    return {
        "loop by hand": by_hand,
        "sweep, basic launcher": sweep("basic"),
        "sweep, two workers": sweep("cpus", "hydra/launcher=cpus", "+hydra.launcher.ray.init.num_cpus=2"),
    }


def starts(output: Path) -> dict[str, Callable[[], float]]:
    """Make the contestants for start-up time: functions that measure seconds, by name."""

    def first_step(*mode: str) -> float:
        moment = output / "first_step"
        started = time.time()
        callback = ["+callbacks.first._target_=bench_sweep.FirstStep", f"+callbacks.first.path={moment}"]
        run(
            "-m",
            "fer.cli.train",
            *mode,
            *TINY,
            "trainer.max_epochs=1",
            *callback,
            f"output_dir={output}/start{started}",
        )
        return float(moment.read_text()) - started

    return {
        "imports alone": lambda: seconds(lambda: run("-c", "import torch, torchvision, lightning.pytorch")),
        "first step of a run": lambda: first_step(),
        "first step of a sweep": lambda: first_step("-m"),
    }


def table(title: str, rounds: dict[str, list[float]]) -> dict[str, Any]:
    """Print medians and their ratio to the first contestant."""
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    reference = next(iter(medians.values()))
    print(f"\n{title:28}{'median s':>10}{'min':>8}{'max':>8}{'ratio':>8}")
    for name, values in rounds.items():
        print(f"{name:28}{medians[name]:10.1f}{min(values):8.1f}{max(values):8.1f}{medians[name] / reference:8.2f}")
    return {name: {"seconds": values, "ratio": medians[name] / reference} for name, values in rounds.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    sweep_rounds: dict[str, list[float]] = {}
    start_rounds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as warm:
        run("-m", "fer.cli.train", *TINY, f"output_dir={warm}")  # the first run draws and decodes the faces
    for number in range(1, options.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            for name, work in sweeps(options.jobs, Path(folder)).items():
                sweep_rounds.setdefault(name, []).append(seconds(work))
            for name, measure in starts(Path(folder)).items():
                start_rounds.setdefault(name, []).append(measure())
                (Path(folder) / "first_step").unlink(missing_ok=True)
        print(f"\n== after round {number} of {options.rounds}")
        found = {
            "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
            "sweep": table(f"{options.jobs} jobs", sweep_rounds),
            "start": table("start", start_rounds),
        }
        sys.stdout.flush()
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
