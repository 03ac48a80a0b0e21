"""Objects from configuration nodes, with the constructor's own error where the configuration does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException

from fer.errors import ConfigError, UserError

T = TypeVar("T")


def instantiated(node: Any, **arguments: Any) -> Any:
    """What a node describes; ``None`` of an empty one. ``_partial_=True`` leaves the call to ``configured``.

    Raises:
        ConfigError: the node names nothing, or its constructor refuses the values.
    """
    if not node:
        return None
    if not isinstance(node, Mapping):
        raise ConfigError(f"{node!r} stands where a section with a _target_ should; set a key in that section instead")
    wants_partial = arguments.pop("_partial_", node.get("_partial_", False))
    try:
        partial = instantiate({**node, "_partial_": True}, _convert_="all", **arguments)
    except InstantiationException as error:
        raise ConfigError(str(error).partition(", set env var")[0]) from error
    return partial if wants_partial else configured(partial)


def configured(call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """Call something whose arguments come from the configuration.

    Raises:
        ConfigError: the arguments do not fit its signature or it refuses their values.
    """
    try:
        return call(*arguments, **keywords)
    except UserError:
        raise
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(str(error)) from error
