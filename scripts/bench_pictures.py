"""Benchmark of the pictures: how long training waits for them after an epoch. Prints ms and shares of an epoch.

    python scripts/bench_pictures.py [--methods eac ce] [--epochs 12] [--json FILE] [OVERRIDE ...]

Here every epoch ends with pictures; the time of an epoch without pictures is that time without the wait. Numbers are
medians, except for the first epoch of each run: the first epoch of a process also includes work that is done once.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fer.config.compose import compose
from fer.config.settings import read_settings
from fer.files.terminal import log_to_terminal
from fer.launch.malloc import keep_freed_memory
from fer.launch.run_job import resolve
from fer.runs.run_folder import RunFolder
from fer.training.callbacks.pictures import Pictures
from fer.training.experiment import build


class TimedPictures(Pictures):
    """Pictures that record how long training waited for them, in seconds."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs=epochs)
        self.seconds: list[float] = []

    def on_train_epoch_end(self, *arguments: Any) -> None:
        started = time.perf_counter()
        super().on_train_epoch_end(*arguments)
        self.seconds.append(time.perf_counter() - started)


def waits_and_epochs(
    method: str, epochs: int, overrides: Sequence[str], folder: RunFolder
) -> list[tuple[float, float]]:
    """Measure, for every epoch, the seconds of the wait and of the rest."""
    folder.last_checkpoint.parent.mkdir(parents=True)
    settings = [
        f"method={method}",
        f"trainer.max_epochs={epochs}",
        "trainer.enable_progress_bar=false",
        "callbacks=none",
    ]
    experiment = build(read_settings(resolve(compose([*settings, *overrides]), {})), folder)
    pictures = TimedPictures(epochs)
    experiment.trainer.callbacks.insert(0, pictures)  # type: ignore[attr-defined]
    experiment.trainer.fit(experiment.method, datamodule=experiment.datamodule)
    seconds = [record["seconds"] for record in folder.records()]
    return [(wait, whole - wait) for wait, whole in zip(pictures.seconds, seconds, strict=True)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["eac", "ce"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options, overrides = parser.parse_known_args(argv)
    log_to_terminal()
    keep_freed_memory()  # as fer-train does
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods:
            run = RunFolder(Path(folder) / method)
            measured[method] = waits_and_epochs(method, options.epochs, overrides, run)
    print(f"{'':12}{'epoch s':>10}{'wait ms':>10}{'share':>9}{'first s':>10}{'wait ms':>10}{'share':>9}")
    for method, (first, *later) in measured.items():
        wait, epoch = (statistics.median(seconds) for seconds in zip(*later, strict=True))
        share = statistics.median(waited / rest for waited, rest in later)
        print(
            f"{method:12}{epoch:10.2f}{1e3 * wait:10.1f}{share:9.2%}"
            f"{first[1]:10.2f}{1e3 * first[0]:10.1f}{first[0] / first[1]:9.2%}"
        )
    if options.json:
        machine = {"cores": torch.get_num_threads(), "torch": torch.__version__, "system": platform.platform()}
        options.json.write_text(json.dumps({"machine": machine, "seconds": measured}, indent=2) + "\n")


if __name__ == "__main__":
    main()
