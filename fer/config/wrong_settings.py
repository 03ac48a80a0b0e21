"""What pydantic finds wrong with the settings, in this project's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fer.files.visible_text import visible_name
from fer.ranges import COMPILE_MODES, MOST_PIXELS

_SHOWN = 80
"""Characters of a value."""


def in_words(errors: Sequence[Any], config: Mapping[str, Any]) -> str:
    """Describe the first error of pydantic: the key, its value, and what it must be."""
    error = errors[0]
    if not error["loc"]:  # keys that do not go together
        return str(error["ctx"]["error"])
    parts = [str(part) for part in error["loc"]]
    # pydantic appends the names of a type's alternatives to the key; users have not written these.
    while parts and len(parts) > 1 and not _is_key(parts, config):
        parts.pop()
    key, kind, context = ".".join(parts), error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"missing required key {key}"
    value = visible_name(repr(value_at(config, parts)))
    value = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    if key in _WANTED:
        return f"{key} is {value}; it must be {_WANTED[key]}"
    wanted = {
        "mapping_type": "a section of keys and values",
        "is_instance_of": "a section of keys and values",
        "dict_type": "a section of keys and values",
        "model_type": "a section of keys and values",
        "model_attributes_type": "a section of keys and values",
        "bool_type": "true or false",
        "string_pattern_mismatch": "the path of a folder",
        "literal_error": f"{context.get('expected')}",
        "string_type": "the path of a folder",
        "float_type": "a number",
        "float_parsing": "a number",
    }.get(kind, f"a whole number{_RANGES.get(parts[-1], ' of 1 or more')}")
    return f"{key} is {value}; it must be {wanted}"


_WANTED = {
    "compile": f"true, false or one of {', '.join(COMPILE_MODES)}",
    "optim.frozen": "a list of names of the backbone's modules",
    "optim.layer_decay": "a number above 0, at most 1",
}
"""Kinds of single keys in words; those of other keys are told by the kind of error."""
_RANGES = {
    "seed": " of 0 or more",
    "folds": " of 2 or more",
    "fold": " of 0 or more",
    "num_workers": " of 0 or more",
    "max_restarts": " of 0 or more",
    "store_size": f" of 1 to {MOST_PIXELS}",
}


def _is_key(parts: list[str], config: Mapping[str, Any]) -> bool:
    value: Any = config
    for part in parts[:-1]:
        value = value.get(part) if isinstance(value, Mapping) else None
    return isinstance(value, Mapping) and (parts[-1] in value or not parts[-1][:1].isupper())


def value_at(config: Mapping[str, Any], parts: list[str]) -> Any:
    value: Any = config
    for part in parts:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
