"""Networks whose losses are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch


class Spoil(L.Callback):
    """Spoils a weight before a step on one of the devices, and writes down the samples of the step."""

    def __init__(self, epoch: int, step: int, value: float, rank: int = 0) -> None:
        self.epoch, self.step, self.value, self.rank = epoch, step, value, rank

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch + 1, batch_idx + 1) == (self.epoch, self.step) and trainer.global_rank == self.rank:
            Path(trainer.default_root_dir, "spoilt.txt").write_text(" ".join(map(str, batch.index.tolist())))
            with torch.no_grad():
                next(iter(pl_module.parameters())).fill_(self.value)


def spoil(**arguments: Any) -> list[str]:
    given = {"_target_": "support.spoiling.Spoil", **arguments}
    return [f"+callbacks.spoil.{key}={value}" for key, value in given.items()]
