"""Objects from configuration nodes, with one clear error where the configuration does not fit their signature."""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException

from fer.errors import ConfigError, UserError

T = TypeVar("T")

_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    Path: "a path",
    types.NoneType: "null",
}


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
    # Hydra reads text more than once for ${...}, so it gets what it must build, and nothing else.
    plain = {name: value for name, value in node.items() if not name.startswith("_") and not _describes(value)}
    rest = {name: value for name, value in node.items() if name not in plain}
    try:
        made = instantiate({**_literal(rest), "_partial_": True}, _convert_="all", **arguments)
    except InstantiationException as error:
        raise ConfigError(f"{key}: {' '.join(str(error).partition(', set env var')[0].split())}") from error
    assert isinstance(made, partial)
    made.keywords.update(copy.deepcopy({name: value for name, value in plain.items() if name not in made.keywords}))
    _check(made, key, {name: value for name, value in node.items() if not name.startswith("_")})
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
    """The places of ``???``, Hydra's mark of a value that must be given."""
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


def _check(made: partial[Any], key: str, values: Mapping[str, Any]) -> None:
    """Refuse names that a signature does not have, and values of another kind than it states."""
    try:
        known = inspect.signature(made.func).parameters
        hints = get_type_hints(made.func.__init__ if inspect.isclass(made.func) else made.func)
    except (TypeError, ValueError, NameError):  # written in C, or naming types that exist for type checkers only
        return
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for name, value in values.items():
        full = f"{key}.{name}" if key else name
        if name not in known and not takes_any:
            near = difflib.get_close_matches(name, known, 1) or known
            raise ConfigError(f"{made.func.__name__} does not take {full}; perhaps {', '.join(near)}")
        wanted = hints.get(name, Any)
        if not _fits(value, wanted):
            raise ConfigError(f"{full} is {value!r}; it must be {' or '.join(_kinds(wanted))}")


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value out of YAML is of a kind that a type hint states."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any or isinstance(value, Mapping):  # or another node
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is Path:
        return isinstance(value, str)
    is_plain_class = inspect.isclass(wanted) and not getattr(wanted, "_is_protocol", False)
    return not is_plain_class or isinstance(value, wanted)


def _kinds(wanted: Any) -> list[str]:
    """Describe a type hint in words."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return list(dict.fromkeys(kind for one in inner for kind in _kinds(one)))
    if origin is Literal:
        return [*map(str, inner)]
    if origin in (list, tuple, Sequence):
        return [f"a list, of {' or '.join(_kinds(inner[0]))} each"]
    return [_KINDS[wanted]] if wanted in _KINDS else []
