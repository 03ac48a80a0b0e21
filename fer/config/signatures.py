"""Values of the configuration against the signature that takes them: names, kinds and ranges."""

from __future__ import annotations

import difflib
import inspect
import math
import types
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints, is_typeddict

from annotated_types import Ge, Gt, Interval, Le, Lt
from hydra.utils import get_object

from fer.errors import ConfigError

_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    Path: "a path",
    types.NoneType: "null",
}


def check_arguments(call: Callable[..., Any], node: Mapping[str, Any], key: str) -> None:
    """Check the values of a node, and of the nodes in it, against the types that signatures state.

    Args:
        call: what the node's ``_target_`` names.
        node: with names that begin with ``_`` left alone.
        key: where the node stands, for messages.

    Raises:
        ConfigError: a name that the signature does not have, or a value of another kind or outside its range.
    """
    for place, inner in _inner_nodes(node, key):
        check_arguments(get_object(inner["_target_"]), inner, place)
    try:
        known: dict[str, inspect.Parameter | None] = {**inspect.signature(call).parameters}
        hints = get_type_hints(call.__init__ if inspect.isclass(call) else call, include_extras=True)
    except (TypeError, ValueError, NameError):  # written in C, or naming types that exist for type checkers only
        return
    for name in [name for name, one in known.items() if one and one.kind is one.VAR_KEYWORD]:
        keys = get_args(hints.get(name))
        if get_origin(hints.get(name)) is Unpack and is_typeddict(keys[0]):  # keys that several constructors share
            shared = get_type_hints(keys[0], include_extras=True)
            hints |= shared
            known |= dict.fromkeys(shared)
            del known[name]
    takes_any = any(parameter and parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for name, value in node.items():
        if name.startswith("_"):
            continue
        full = f"{key}.{name}" if key else name
        if name not in known and not takes_any:
            near = difflib.get_close_matches(name, known, 1) or known
            raise ConfigError(f"{call.__name__} does not take {full}; perhaps {', '.join(near)}")
        wanted = hints.get(name, Any)
        if not _fits(value, wanted):
            raise ConfigError(f"{full} is {value!r}; it must be {' or '.join(_described(wanted))}")


def _inner_nodes(value: Any, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Find the nodes directly below a value, with their places."""
    if isinstance(value, Mapping):
        items = [(f"{key}.{name}" if key else str(name), inner) for name, inner in value.items()]
    else:
        items = [(f"{key}[{number}]", inner) for number, inner in enumerate(value)] if isinstance(value, list) else []
    found: list[tuple[str, Mapping[str, Any]]] = []
    for place, inner in items:
        is_node = isinstance(inner, Mapping) and isinstance(inner.get("_target_"), str)
        found += [(place, inner)] if is_node else _inner_nodes(inner, place)
    return found


def _fits(value: Any, wanted: Any) -> bool:
    """Tell whether a value out of YAML is of the kind, and in the range, that a type hint states."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any or isinstance(value, Mapping):  # or another node
        return True
    if origin is Annotated:
        return _fits(value, inner[0]) and all(_lies_in(value, limit) for limit in inner[1:])
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is abc.Mapping:
        return False
    if origin is tuple and inner[-1] is not Ellipsis:
        return isinstance(value, list) and len(value) == len(inner) and all(map(_fits, value, inner))
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


def _lies_in(value: float, limit: Any) -> bool:
    low, low_counts, high, high_counts = _bounds([limit])
    above = value >= low if low_counts else value > low
    return above and (value <= high if high_counts else value < high)


def _bounds(limits: Sequence[Any]) -> tuple[float, bool, float, bool]:
    """Read a range: lower bound, whether it is included, upper bound, whether it is included."""
    low, low_counts, high, high_counts = -math.inf, True, math.inf, True
    for limit in limits:
        for part in limit if isinstance(limit, Interval) else [limit]:
            if isinstance(part, Ge | Gt):
                low_counts = isinstance(part, Ge)
                low = float(part.ge if isinstance(part, Ge) else part.gt)  # type: ignore[arg-type]
            elif isinstance(part, Le | Lt):
                high_counts = isinstance(part, Le)
                high = float(part.le if isinstance(part, Le) else part.lt)  # type: ignore[arg-type]
    return low, low_counts, high, high_counts


def _range(limits: Sequence[Any]) -> str:
    """Describe a range behind "a number"."""
    low, low_counts, high, high_counts = _bounds(limits)
    if high == math.inf:
        return f" of {low:g} or more" if low_counts else f" above {low:g}"
    if low == -math.inf:
        return f" of {high:g} or less" if high_counts else f" below {high:g}"
    if low_counts and high_counts:
        return f" of {low:g} to {high:g}"
    if low_counts or high_counts:
        return f" {f'of {low:g} or more' if low_counts else f'above {low:g}'}, " + (
            f"at most {high:g}" if high_counts else f"below {high:g}"
        )
    return f" between {low:g} and {high:g}"


def _described(wanted: Any) -> list[str]:
    """Describe a type hint in words, one for each alternative."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        base = "a number" if inner[0] is float else _KINDS[inner[0]]
        return [base + _range(inner[1:])]
    if origin in (Union, types.UnionType):
        return list(dict.fromkeys(kind for one in inner for kind in _described(one)))
    if origin is Literal:
        return [", ".join(map(str, inner[:-1])) + f" or {inner[-1]}"] if len(inner) > 1 else [str(inner[0])]
    if origin is abc.Mapping:
        return ["pairs, {NAME: VALUE}"]
    if origin is tuple and inner[-1] is not Ellipsis:
        return [f"a list of {len(inner)}, {' or '.join(_described(inner[0]))} each"]
    if origin in (list, tuple, Sequence):
        return [f"a list, of {' or '.join(_described(inner[0]))} each"]
    return [_KINDS[wanted]] if wanted in _KINDS else []
