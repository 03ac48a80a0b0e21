"""What can be told from the values of a configuration alone, before anything is imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fer.config.devices import check_accelerator, world_size
from fer.config.required_keys import check_complete
from fer.config.trainer_keys import check_trainer_keys
from fer.errors import ConfigError

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Of ``torch.compile``."""
_LOWEST = {
    "seed": 0,
    "trainer.max_epochs": 1,
    "trainer.num_nodes": 1,
    "batch_size": 1,
    "num_workers": 0,
    "data.store_size": 1,
    "launch.max_restarts": 0,
}


def check_values(config: Mapping[str, Any], *, ranks_exist: bool) -> None:
    """Refuse what cannot be run anywhere, or not on this machine.

    Args:
        config: resolved configuration, plain containers.
        ranks_exist: whether a process for every rank runs already.

    Raises:
        ConfigError: naming the key.
    """
    check_complete(config)
    for key in ("output_dir", "cache_dir"):
        if not isinstance(config.get(key), str) or not config[key].strip():
            raise ConfigError(f"{key} is {config.get(key)!r}; it must be the path of a folder")
    for key, lowest in _LOWEST.items():
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config).get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise ConfigError(f"{key} is {value!r}; it must be a whole number of {lowest} or more")
    for key in ("channels_last", "sync_batchnorm", "image_cache"):
        if not isinstance(config.get(key), bool):
            raise ConfigError(f"{key} is {config.get(key)!r}; it must be true or false")
    compiled = config["compile"]
    if not isinstance(compiled, bool) and compiled not in COMPILE_MODES:
        raise ConfigError(f"compile is {compiled!r}; it must be true, false or one of {', '.join(COMPILE_MODES)}")
    check_trainer_keys(config)
    check_accelerator(config["trainer"])
    ranks = world_size(config["trainer"])
    if config["batch_size"] % ranks:
        raise ConfigError(
            f"batch_size={config['batch_size']} is the total over all devices and must divide evenly among {ranks}; "
            f"choose a multiple of {ranks}"
        )
    if config["trainer"]["num_nodes"] > 1 and not ranks_exist:
        raise ConfigError(
            "trainer.num_nodes above 1 needs a process for every rank: start torchrun with -m fer.cli.train on each "
            "machine"
        )
