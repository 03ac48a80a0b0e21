"""Methods in an epoch of a training that does not run."""

from __future__ import annotations

from typing import Any


def in_epoch(method: Any, epoch: int, epochs: int = 100) -> Any:
    """In evaluation mode, so that a second pass gives the same."""
    trainer = {"max_epochs": epochs, "current_epoch": epoch, "callbacks": [], "world_size": 1}
    method._trainer = type("Trainer", (), trainer)()
    return method.eval()
