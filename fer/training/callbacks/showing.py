"""Base class of callbacks that only show something of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable

import lightning.pytorch as L
import torch

log = logging.getLogger(__name__)


class Showing(L.Callback):
    """Callback that cannot change a run: it does not use the random generators and never ends a run.

    Only the first rank shows anything; what it does in ``attempt`` must not wait for others.
    """

    def __init__(self) -> None:
        self._has_warned = False

    def attempt(self, trainer: L.Trainer, show: Callable[[], None]) -> None:
        """Show something on the first rank. The first error of a run is logged, and the run goes on."""
        if not trainer.is_global_zero:
            return
        device = trainer.strategy.root_device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                show()
        except Exception as error:  # any exception: a picture must not end a training
            if not self._has_warned:
                log.warning(
                    "%s left something out in epoch %d, and training goes on: %s: %s",
                    type(self).__name__, trainer.current_epoch + 1, type(error).__name__, error,
                )  # fmt: skip
            self._has_warned = True
