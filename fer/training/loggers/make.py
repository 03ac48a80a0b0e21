"""The loggers of a run from the section ``logger`` of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger

from fer.config.instantiate import call_configured, instantiate_node
from fer.errors import ConfigError
from fer.runs.run_folder import RunFolder
from fer.training.loggers.guarded import GuardedLogger
from fer.training.loggers.ways import way_of


def make_loggers(nodes: Mapping[str, Any], folder: RunFolder, label: str) -> list[GuardedLogger]:
    """Build the loggers of a run.

    Args:
        nodes: a name and a node with ``_target_`` for each logger.
        folder: of the run, where those that write files do so.
        label: name of the run for people.

    Raises:
        ConfigError: a node does not fit, or its package is not installed.
    """
    return [_make(name, node, folder, label) for name, node in nodes.items() if node]


def _make(name: str, node: Any, folder: RunFolder, label: str) -> GuardedLogger:
    key = f"logger.{name}"
    make: partial[Any] = instantiate_node(node, key, _partial_=True)
    way = way_of(make.func)
    own = way.arguments(folder, label, make.keywords)
    try:
        logger = call_configured(make, **{name: value for name, value in own.items() if name not in make.keywords})
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{key} needs a package that is not installed ({error.name or error}): "
            'pip install "noisy-label-fer[loggers]"'
        ) from error
    if not isinstance(logger, Logger):
        raise ConfigError(f"{key} is {type(logger).__name__}, which is no logger of Lightning")
    return GuardedLogger(name, way(logger, folder))


def loggers_of(trainer: L.Trainer) -> list[GuardedLogger]:
    """Find the loggers of a run by its trainer."""
    return [logger for logger in trainer.loggers if type(logger) is GuardedLogger]
