"""Numbers of devices that a configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fer.errors import ConfigError

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


def devices_per_node(trainer: Mapping[str, Any]) -> int:
    """Return the number of devices, and therefore of ranks, on each machine.

    Args:
        trainer: the resolved ``trainer`` group. ``devices`` is a number, a list of indices, or ``-1`` or ``auto`` for
            every GPU.

    Raises:
        ConfigError: something else.
    """
    devices = trainer.get("devices")
    if devices in (-1, "auto"):
        return max(1, _visible_gpus()) if trainer["accelerator"] in ("auto", "gpu", "cuda") else 1
    if isinstance(devices, list) and devices and all(isinstance(index, int) for index in devices):
        return len(devices)
    if isinstance(devices, int) and not isinstance(devices, bool) and devices >= 1:
        return devices
    raise ConfigError(f"trainer.devices is {devices!r}; give a number of 1 or more, a list of indices, or auto")


def world_size(trainer: Mapping[str, Any]) -> int:
    """Return the number of ranks on all machines.

    Raises:
        ConfigError: ``devices`` or ``num_nodes`` is no number of 1 or more.
    """
    nodes = trainer["num_nodes"]
    if not isinstance(nodes, int) or isinstance(nodes, bool) or nodes < 1:
        raise ConfigError(f"trainer.num_nodes is {nodes!r}; it must be a whole number of 1 or more")
    return nodes * devices_per_node(trainer)


def check_accelerator(trainer: Mapping[str, Any]) -> None:
    """Refuse an accelerator or a number of devices that this machine does not have.

    Raises:
        ConfigError: naming the key.
    """
    accelerator, devices = trainer.get("accelerator"), trainer.get("devices")
    if accelerator not in ACCELERATORS:
        raise ConfigError(f"trainer.accelerator is {accelerator!r}; choose one of {', '.join(ACCELERATORS)}")
    needs_gpu = accelerator in ("gpu", "cuda")
    if not needs_gpu and (accelerator != "auto" or devices in (1, -1, "auto")):
        return
    there = _visible_gpus()
    if not there:
        use = "use auto or cpu" if needs_gpu else "trainer.accelerator=cpu trains on so many processes"
        raise ConfigError(
            f"trainer.accelerator={accelerator} trainer.devices={devices}: torch finds no GPU here; {use}"
        )
    wanted = max(devices) + 1 if isinstance(devices, list) else devices_per_node(trainer)
    if wanted > there:
        raise ConfigError(f"trainer.devices={devices}, but this machine has {there} GPU{'s' if there > 1 else ''}")


def has_gpus() -> bool:
    """Tell whether this machine has a GPU that torch can use."""
    return _visible_gpus() > 0


def _visible_gpus() -> int:
    import torch  # torch takes seconds to import

    return torch.cuda.device_count()
