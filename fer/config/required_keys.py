"""The keys that a configuration cannot do without, since the program reads them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fer.errors import ConfigError

_VALUES = (
    "seed", "protocol", "batch_size", "cache_dir", "channels_last", "compile", "sync_batchnorm", "data.store_size",
    "data.on_bad_image", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.max_epochs",
    "trainer.enable_progress_bar", "launch.max_restarts",
)  # fmt: skip
_SECTIONS = ("trainer", "launch", "data", "data.reader", "backbone", "augment", "method", "optim", "optim.optimizer")
_SECTIONS_OR_NULL = ("noise", "optim.scheduler", "callbacks", "logger")
_LISTS = ("unnamed_keys",)


def check_complete(config: Mapping[str, Any]) -> None:
    """Refuse a resolved configuration of which something was removed, or a section replaced by a value.

    Raises:
        ConfigError: naming the key.
    """
    for key in (*_SECTIONS, *_SECTIONS_OR_NULL):
        value = _value(config, key)
        if not (isinstance(value, Mapping) or (value is None and key in _SECTIONS_OR_NULL)):
            raise ConfigError(f"{key} is {value!r}, but must be a section of keys and values; set a key in it instead")
    for key in _LISTS:
        value = _value(config, key)
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ConfigError(f"{key} is {value!r}, but must be a list of keys")
    for key in _VALUES:
        _value(config, key)


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if part not in value:
            raise ConfigError(f"{key} is missing, and cannot be done without; do not remove it")
        value = value[part]
    return value
