"""Resources that a launcher reserves for each job of a sweep, for the interpolations in ``conf/hydra/launcher``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fer.config.devices import devices_per_node, has_gpus


def devices_per_job(root: Any) -> int:
    """Devices of the largest job; a launcher reserves the same for all."""
    given = [*(root.hydra.sweeper.get("params") or {}).items()]
    given += [override.lstrip("+").partition("=")[::2] for override in root.hydra.overrides.task]
    asked = [str(value) for key, value in given if key == "trainer.devices"] or [str(root.trainer.devices)]
    (override,) = OverridesParser.create().parse_overrides([f"devices={asked[-1]}"])
    values = [*override.sweep_iterator()] if override.is_sweep_override() else [override.value()]
    return max(devices_per_node({"devices": value, "accelerator": root.trainer.accelerator}) for value in values)


def gpus_per_job(root: Any) -> float:
    """Whole GPUs, or a share where several jobs run on one; 0 on a machine without."""
    if root.trainer.accelerator == "cpu" or not has_gpus():
        return 0
    return devices_per_job(root) / int(root.launch.jobs_per_gpu)


_RESOLVERS: dict[str, Callable[[Any], Any]] = {
    "gpus_per_job": gpus_per_job,
    "gpus_per_node": lambda root: devices_per_job(root) if gpus_per_job(root) else None,
    "cpus_per_job": lambda root: devices_per_job(root) * int(root.launch.cpus_per_device),
    "threads_per_device": lambda root: str(root.launch.cpus_per_device),
}


def register() -> None:
    """Register the interpolations with OmegaConf."""

    def add(name: str, function: Callable[[Any], Any]) -> None:
        OmegaConf.register_new_resolver(name, lambda *, _root_: function(_root_), replace=True)

    for name, function in _RESOLVERS.items():
        add(name, function)
