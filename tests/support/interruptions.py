"""Runs that are cut off, and comparisons with whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from fer.runs.run_folder import RunFolder
from fer.training.callbacks.epoch_records import COSTS


class CutPower(L.Callback):
    """Callback that ends the work of the process, on every rank, in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise PowerCut


EPOCHS = 3


def cut_in(epoch: int) -> list[str]:
    """Write the overrides that end a training in the middle of an epoch, counted from 0, with a ``PowerCut``."""
    return ["+callbacks.cut._target_=support.interruptions.CutPower", f"+callbacks.cut.epoch={epoch}"]


class PowerCut(BaseException):
    """An interruption that the program cannot catch and record as an error."""


def records(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in COSTS} for record in RunFolder(folder).records()]


def assert_same_outcome(folder: Path, other: Path) -> None:
    assert records(folder) == records(other)
    assert len(records(folder)) == EPOCHS
    assert (folder / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()
    first, second = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (folder, other)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
