"""Disks that become full during a training."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as L


class DiskFull(L.Callback):
    """Limits the size of files, from the end of the second epoch on, to a number of bytes, as a full disk would."""

    def __init__(self, room: int) -> None:
        self.room = room

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1 and trainer.global_rank == 0:
            shutil.copy(Path(trainer.default_root_dir, LAST), Path(trainer.default_root_dir, "before.ckpt"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


LAST = Path("checkpoints", "last.ckpt")


def room_for(size: int) -> list[str]:
    return ["+callbacks.full._target_=support.disk_limits.DiskFull", f"+callbacks.full.room={size}"]


def lift_limit() -> None:
    """Let this process write files of any size again."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
