"""Disks that are full from some moment on."""

from __future__ import annotations

import resource
from pathlib import Path

LAST = Path("checkpoints", "last.ckpt")


def room_for(size: int) -> list[str]:
    return ["+callbacks.full._target_=test_storage_faults.DiskFull", f"+callbacks.full.room={size}"]


def lift_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
