"""Benchmark of Lightning's Trainer and its extras: cost per step, on a very small network. Prints ms and ratios.

    python scripts/bench_overhead.py [--steps 200] [--rounds 5] [--json FILE]

The plain loop makes the same views, loss and optimizer steps, and nothing else. The contestants take turns; the median
of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from fer.config.compose import compose
from fer.config.settings import read_settings
from fer.launch.run_job import resolve
from fer.runs.run_folder import RunFolder
from fer.training.experiment import Experiment, build
from fer.views.random_seeds import seed_everything

SMALL = [
    "backbone.width=8",
    "augment.size=16",
    "data.store_size=16",
    "batch_size=8",
    "+trainer.limit_val_batches=0",
    "trainer.max_epochs=1",
    "callbacks=none",
]
VARIANTS = {
    "Trainer, nothing logged": ["trainer.enable_progress_bar=false", "logger=none"],
    "Trainer, TensorBoard": ["trainer.enable_progress_bar=false"],
    "Trainer, TensorBoard every step": ["trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"],
}


class EpochClock(L.Callback):
    """Callback that times the steps of each epoch, in seconds."""

    def on_train_epoch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.started


def experiment_of(overrides: Sequence[str], folder: Path) -> Experiment:
    (folder / "checkpoints").mkdir(parents=True)
    return build(read_settings(resolve(compose([*SMALL, *overrides]), {})), RunFolder(folder))


def plain_loop(experiment: Experiment, steps: int) -> float:
    method, loader = experiment.method.train(), experiment.datamodule.train_dataloader()
    optimizer = method.configure_optimizers()["optimizer"]
    started = time.perf_counter()
    for step, batch in zip(range(steps), loader, strict=False):
        seed_everything(0, 0, step, 0)
        loss = method.loss(batch.seen_as(*method.make_views(batch.image))).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - started) / steps


def with_trainer(experiment: Experiment, steps: int) -> float:
    trainer = experiment.trainer
    clock = next((callback for callback in trainer.callbacks if isinstance(callback, EpochClock)), None)
    if clock is None:
        clock = EpochClock()
        trainer.callbacks.append(clock)
    trainer.limit_train_batches = steps
    trainer.fit_loop.max_epochs = trainer.current_epoch + 1
    trainer.fit(experiment.method, datamodule=experiment.datamodule)
    return clock.seconds / steps


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        faces = f"data.reader.train={8 * options.steps}"
        plain = experiment_of([faces, *VARIANTS["Trainer, nothing logged"]], Path(folder) / "plain")
        contestants: dict[str, Callable[[], float]] = {"plain loop": lambda: plain_loop(plain, options.steps)}
        for number, (name, overrides) in enumerate(VARIANTS.items()):
            experiment = experiment_of([faces, *overrides], Path(folder) / str(number))
            contestants[name] = lambda experiment=experiment: with_trainer(experiment, options.steps)  # type: ignore[misc]
        rounds: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for name, run in contestants.items():
                milliseconds = 1e3 * run()
                if number:  # the first round warms up
                    rounds[name].append(milliseconds)
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    reference = medians["plain loop"]
    print(f"{'per step':34}{'median ms':>10}{'more ms':>10}{'ratio':>8}")
    for name, median in medians.items():
        print(f"{name:34}{median:10.2f}{median - reference:10.2f}{median / reference:8.2f}")
    if options.json:
        machine = {"cores": torch.get_num_threads(), "torch": torch.__version__, "system": platform.platform()}
        options.json.write_text(json.dumps({"machine": machine, "milliseconds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
