"""Objects from configuration nodes, with one clear error where the configuration does not fit their signature."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException

from fer.config.signatures import check_arguments
from fer.errors import ConfigError, UserError

T = TypeVar("T")


def instantiate_node(node: Any, key: str = "", **arguments: Any) -> Any:
    """Build the object that a node describes; ``None`` for an empty node.

    ``_partial_=True`` leaves the call to ``call_configured``.

    Args:
        node: with ``_target_`` and its arguments.
        key: where the node stands, for messages.
        arguments: further ones, which are not checked.

    Raises:
        ConfigError: the node names nothing, or its constructor refuses the values; the message names the key.
    """
    if not node:
        return None
    if not isinstance(node, Mapping):
        raise ConfigError(f"{key} is {node!r}; choose an option of the group, or give its keys")
    wants_partial = arguments.pop("_partial_", node.get("_partial_", False))
    if missing := next(_missing(node), None):
        raise ConfigError(f"{key}.{missing} is missing; give it a value")
    # Hydra resolves ${...} in text more than once, so it gets only the nodes that it must build.
    plain = {name: value for name, value in node.items() if not name.startswith("_") and not _describes(value)}
    rest = {name: value for name, value in node.items() if name not in plain}
    try:
        made = instantiate({**_literal(rest), "_partial_": True}, _convert_="all", **arguments)
    except InstantiationException as error:
        raise ConfigError(f"{key}: {' '.join(str(error).partition(', set env var')[0].split())}") from error
    assert isinstance(made, partial)
    made.keywords.update(copy.deepcopy({name: value for name, value in plain.items() if name not in made.keywords}))
    check_arguments(made.func, node, key)
    return made if wants_partial else call_configured(made)


def _describes(value: Any) -> bool:
    """Tell whether a value is, or holds at any depth, a node that Hydra builds."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_describes, value.values()))
    return isinstance(value, list) and any(map(_describes, value))


def _literal(value: Any) -> Any:
    """Copy a node so that its text stays as it is, where Hydra would resolve ``${...}`` twice."""
    if isinstance(value, str):
        for _ in range(2):
            value = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)
        return value
    if isinstance(value, Mapping):
        return {name: _literal(inner) for name, inner in value.items()}
    return [_literal(inner) for inner in value] if isinstance(value, list) else value


def _missing(value: Any) -> Iterator[str]:
    """Find the keys whose value is ``???``, Hydra's mark for a value that must be given."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        if inner == "???":
            yield str(name)
        yield from (f"{name}.{below}" for below in _missing(inner))


def call_configured(call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
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
