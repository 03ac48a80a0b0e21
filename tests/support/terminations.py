"""Runs that SIGTERM ends."""

from __future__ import annotations

from pathlib import Path

INTERRUPTED = Path("checkpoints", "interrupted.ckpt")


def terminated(epoch: int, step: int, rank: int = 0) -> list[str]:
    values = {"_target_": "test_termination.Terminate", "epoch": epoch, "step": step, "rank": rank}
    return [f"+callbacks.terminate.{key}={value}" for key, value in values.items()]
