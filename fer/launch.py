"""Decides what becomes of a composed job: refuse it, skip it, resume it or train it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fer.errors import ConfigError, UserError
from fer.runs import RunFolder

log = logging.getLogger(__name__)


def resolve(cfg: DictConfig, choices: Mapping[str, str | None]) -> dict[str, Any]:
    """The configuration as plain containers, with the chosen option of every group under ``choices``.

    Raises:
        ConfigError: a value is missing or cannot be resolved.
    """
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}; give it as {error.full_key}=...") from error
    assert isinstance(resolved, dict)
    kept = ("method", "backbone", "data", "noise", "augment", "optim", "experiment", "sweep")
    return {**{str(key): value for key, value in resolved.items()}, "choices": {key: choices.get(key) for key in kept}}


def run(cfg: DictConfig, path: str | Path, choices: Mapping[str, str | None]) -> dict[str, Any]:
    """Bring a run to its end and return its result; a finished run is not trained again.

    Raises:
        ConfigError, DatasetError, WeightsError, RunFolderError: before any training, with what to do.
    """
    folder = RunFolder(path)
    is_new = folder.state == "new"
    try:
        config = resolve(cfg, choices)
        check(config)
        if folder.open(config, [*config["unnamed_keys"]]) == "done":
            log.info("%s is finished already; remove the folder to train again", folder.path)
            return folder.result()

        from fer import experiment  # seconds of imports, which errors above and skipped runs do without

        return experiment.train(config, folder)
    except UserError:
        if is_new:
            folder.discard()
        raise


def check(config: Mapping[str, Any]) -> None:
    """What can be told from the values alone.

    Raises:
        ConfigError: naming the key.
    """
    seed, epochs = config["seed"], config["trainer"]["max_epochs"]
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"seed is {seed!r}; it must be a whole number of 0 or more")
    if not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"trainer.max_epochs is {epochs!r}; it must be a whole number of 1 or more")
    devices = config["trainer"]["devices"]
    if devices not in (1, "1") and not (isinstance(devices, list) and len(devices) == 1):
        raise ConfigError(f"trainer.devices is {devices!r}; a run trains on one device: give 1, or a list of one index")
    batch_size = config["batch_size"]
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}; it must be a whole number of 1 or more")
