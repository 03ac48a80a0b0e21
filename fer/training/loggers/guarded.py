"""A logger whose failures end no training: a lost network or a full disk costs what was to be shown, never a result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only

from fer.training.callbacks.tiles import Pixels
from fer.training.loggers.ways import Charts, Way

log = logging.getLogger(__name__)


class GuardedLogger(Logger):
    """Stands for a logger of Lightning in ``trainer.loggers``: also to ``isinstance``, and with all its attributes.

    What Lightning and this project write goes through here. The first failure is logged as a warning, and the logger is
    left out from then on, since a server that does not answer would hold up every epoch. Only the first rank writes.

    Args:
        name: of the logger in the configuration, for the warning.
        way: in which it is used.
    """

    def __init__(self, name: str, way: Way) -> None:
        super().__init__()
        self._label = name
        self._way = way
        self._has_failed = False

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Class of the logger: callbacks look for the logger they know by ``isinstance``."""
        return type(self._way.logger)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # before __init__, and what belongs to a class
            raise AttributeError(name)
        return getattr(self._way.logger, name)

    @property
    def experiment(self) -> Any:
        """What the logger writes with; for one that fails, something that takes any call and does nothing."""
        logger = self._way.logger
        if not hasattr(type(logger), "experiment") and "experiment" not in vars(logger):
            raise AttributeError("experiment")  # as the logger would; Lightning asks
        found = self._attempt(lambda: logger.experiment)
        return DummyLogger().experiment if found is None else found

    @property
    def name(self) -> str | None:
        found: str | None = self._attempt(lambda: self._way.logger.name)
        return found

    @property
    def version(self) -> int | str | None:
        found: int | str | None = self._attempt(lambda: self._way.logger.version)
        return found

    @property
    def root_dir(self) -> str | None:
        found: str | None = self._attempt(lambda: self._way.logger.root_dir)
        return found

    @property
    def log_dir(self) -> str | None:
        found: str | None = self._attempt(lambda: self._way.logger.log_dir)
        return found

    @property
    def save_dir(self) -> str | None:
        found: str | None = self._attempt(lambda: self._way.logger.save_dir)
        return found

    @property
    def group_separator(self) -> str:
        return str(self._way.logger.group_separator)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._attempt(lambda: self._way.logger.log_metrics(metrics, step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._attempt(lambda: self._way.logger.log_hyperparams(*args, **kwargs))

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        self._attempt(lambda: self._way.logger.log_graph(*args, **kwargs))

    def save(self) -> None:
        self._attempt(lambda: self._way.logger.save())

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._attempt(lambda: self._way.logger.after_save_checkpoint(checkpoint_callback))

    def finalize(self, status: str) -> None:
        self._attempt(lambda: self._way.logger.finalize(status))

    def start(self, config: Mapping[str, Any]) -> None:
        """See ``Way.start``; so for the others."""
        self._attempt(lambda: self._way.start(config))

    def log_epoch(self, metrics: Mapping[str, float], *, epoch: int, step: int) -> None:
        self._attempt(lambda: self._way.log_epoch(metrics, epoch=epoch, step=step))

    def log_result(self, settings: Mapping[str, Any], metrics: Mapping[str, float], *, epochs: int) -> None:
        self._attempt(lambda: self._way.log_result(settings, metrics, epochs=epochs))

    def log_picture(self, tag: str, picture: Pixels, epoch: int) -> None:
        self._attempt(lambda: self._way.log_picture(tag, picture, epoch))

    def log_text(self, name: str, text: str, epoch: int) -> None:
        self._attempt(lambda: self._way.log_text(name, text, epoch))

    def log_charts(self, charts: Charts) -> None:
        self._attempt(lambda: self._way.log_charts(charts))

    def end(self, *, failed: bool) -> None:
        self._attempt(lambda: self._way.end(failed=failed))

    def _attempt(self, call: Callable[[], Any]) -> Any:
        if self._has_failed or getattr(rank_zero_only, "rank", 0) != 0:
            return None
        try:
            return call()
        except Exception as error:  # a logger may raise anything
            self._has_failed = True
            said = " ".join(str(error).split())
            log.warning(
                "logger.%s fails and is left out from here on, while the run goes on: %s: %s",
                self._label, type(error).__name__, said if len(said) <= 300 else f"{said[:300]}...",
            )  # fmt: skip
            return None
