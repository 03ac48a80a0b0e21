"""Methods placed in an epoch without a training."""

from __future__ import annotations

from typing import Any


def in_epoch(method: Any, epoch: int, epochs: int = 100) -> Any:
    """Put a method into an epoch, and into evaluation mode, so that a second pass gives the same result."""
    trainer = {"max_epochs": epochs, "current_epoch": epoch, "callbacks": [], "world_size": 1}
    method._trainer = type("Trainer", (), trainer)()
    return method.eval()
