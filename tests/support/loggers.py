"""A logger of a user's own, and a callback of Lightning that writes to loggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger


class Other(Logger):
    """A logger as Lightning asks for it, and no more; another process's metrics are lost."""

    seen: list[tuple[str, Any]] = []  # noqa: RUF012, of the class on purpose: the run makes the object

    def __init__(self, broken: str | None = None) -> None:
        super().__init__()
        self.broken = broken

    @property
    def name(self) -> str:
        self._take("name", None)
        return "other"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._take("metrics", (dict(metrics), step))

    def log_hyperparams(self, params: Any) -> None:
        self._take("settings", params)

    def finalize(self, status: str) -> None:
        self._take("end", status)

    def _take(self, what: str, value: Any) -> None:
        if what == self.broken:
            raise OSError(28, "No space left on device")
        self.seen.append((what, value))


class AsksForTheName(LearningRateMonitor):
    """A callback of Lightning that writes to loggers; asks for their names, as ModelCheckpoint does."""

    def on_train_start(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        super().on_train_start(trainer, *args, **kwargs)
        assert trainer.loggers[-1].name in ("other", None)
