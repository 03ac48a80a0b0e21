"""Keys of ``trainer`` that a run cannot have, and those that make it a trial without a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fer.errors import ConfigError

_SET_BY_THE_PROGRAM = (
    "strategy", "plugins", "callbacks", "logger", "use_distributed_sampler", "num_sanity_val_steps",
    "enable_model_summary", "enable_checkpointing", "default_root_dir", "reload_dataloaders_every_n_epochs",
)  # fmt: skip
# Every epoch ends with one evaluation of all that the protocol evaluates.
_EVALUATION = {"check_val_every_n_epoch": (1,), "val_check_interval": (None, 1, 1.0)}
# Values that use all of the data.
_WHOLE: dict[str, tuple[Any, ...]] = {
    "fast_dev_run": (False, 0, None),
    "overfit_batches": (0, 0.0, None),
    "limit_train_batches": (None, 1.0),
    "limit_val_batches": (None, 1.0),
    "limit_test_batches": (None, 1.0),
    "limit_predict_batches": (None, 1.0),
    "max_time": (None,),
    "max_steps": (None, -1),
}


def check_trainer_keys(config: Mapping[str, Any]) -> None:
    """Refuse keys that the program sets itself or that leave an epoch without its evaluation.

    Raises:
        ConfigError: naming the key.
    """
    trainer = config["trainer"]
    for key in _SET_BY_THE_PROGRAM:
        if key in trainer:
            raise ConfigError(f"trainer.{key} is set by the program and would be ignored; leave it out")
    for key, allowed in _EVALUATION.items():
        if key in trainer and not _is_one_of(trainer[key], allowed):
            raise ConfigError(
                f"trainer.{key} is {trainer[key]!r}; every epoch ends with one evaluation, so leave it out"
            )
    for key in ("limit_val_batches", "limit_test_batches"):
        if key in trainer and _is_one_of(trainer[key], (0, 0.0)):
            raise ConfigError(f"trainer.{key} is {trainer[key]}, which leaves nothing to evaluate; give 1 or more")
    for name, node in (config.get("callbacks") or {}).items():
        monitored = node.get("monitor") if isinstance(node, Mapping) else None
        if isinstance(monitored, str) and monitored.startswith("test/"):
            raise ConfigError(
                f"callbacks.{name}.monitor is {monitored}, which would select on the test set; give protocol=holdout "
                f"and monitor=holdout/{monitored.removeprefix('test/')}"
            )
        if isinstance(monitored, str) and monitored.startswith("holdout/") and config.get("protocol") != "holdout":
            raise ConfigError(f"callbacks.{name}.monitor is {monitored}, which only protocol=holdout has; give that")


def keys_of_a_trial(trainer: Mapping[str, Any]) -> list[str]:
    """Name the keys that make a run a trial without a result: it sees a part of the data or ends early."""
    return [key for key, whole in _WHOLE.items() if key in trainer and not _is_one_of(trainer[key], whole)]


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Compare type and value: ``limit_val_batches=1`` is one batch, ``1.0`` is all."""
    return any(type(value) is type(one) and value == one for one in allowed)
