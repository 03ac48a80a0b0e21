"""Runs that SIGTERM ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as L


class Terminate(L.Callback):
    """Sends SIGTERM to its own process, on one rank, before a step."""

    def __init__(self, epoch: int, step: int, rank: int = 0) -> None:
        self.at = (epoch, step, rank)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx, trainer.global_rank) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


INTERRUPTED = Path("checkpoints", "interrupted.ckpt")


def terminated(epoch: int, step: int, rank: int = 0) -> list[str]:
    values = {"_target_": "support.terminations.Terminate", "epoch": epoch, "step": step, "rank": rank}
    return [f"+callbacks.terminate.{key}={value}" for key, value in values.items()]
