"""YAML and JSON files that may come from a stranger, read into plain values within bounds.

Neither format can name code to run here. The bounds end aliases that multiply, nesting that exhausts the stack and
files that are too large in one message.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from fer.files.regular import open_regular

MAX_DEPTH = 40
"""Mappings and lists inside each other in a YAML file."""
MAX_YAML_BYTES = 128 * 1024
MAX_JSON_BYTES = 64 * 1024 * 1024
_MAX_SCALAR = 10_000
_MAX_WHOLE = 2**63

# libyaml's loader, if PyYAML was built with it: eight times as fast, with the same safe constructor.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class PlainDataError(ValueError):
    """A file that is damaged or exceeds a bound; the message says how in one line, without naming the file."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values: mappings (keys: text or whole numbers), lists, text, numbers, booleans, null.

    Raises:
        OSError: the file cannot be read.
        PlainDataError: it is no UTF-8 or no YAML, is larger than 128 KiB, nests deeper than 40, or holds an alias, a
            tag, a date, a key twice or any other key.
    """
    text = _text(path, MAX_YAML_BYTES)
    try:
        _check_events(text)
        value = yaml.load(text, _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = getattr(error.problem_mark or error.context_mark, "line", None)
        where = "" if line is None else f"line {line + 1}: "
        raise PlainDataError(f"{where}{error.problem or error.context or 'not YAML'}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: dates and numbers that Python refuses
        raise PlainDataError(" ".join(str(error).partition(";")[0].split())) from error
    _check_plain(value)
    return value


def yaml_text(value: Mapping[str, Any]) -> str:
    """Write plain values as ``read_yaml`` reads them.

    Raises:
        PlainDataError: it would refuse them for their size.
    """
    text: str = yaml.dump(dict(value), Dumper=_WithoutAliases, sort_keys=False)
    if len(text) > MAX_YAML_BYTES:
        raise PlainDataError(f"it is larger than the allowed {MAX_YAML_BYTES // 1024} KiB")
    return text


class _WithoutAliases(yaml.SafeDumper):
    """Writes what stands in two places twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        OSError: the file cannot be read.
        PlainDataError: it is no UTF-8, no JSON, no object, is larger than 64 MiB or nests too deeply.
    """
    value = parse_json(_text(path, MAX_JSON_BYTES))
    if not isinstance(value, dict):
        raise PlainDataError("it holds no JSON object")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file with a JSON object in each line, up to the first line that holds none.

    Raises:
        OSError: the file cannot be read.
        PlainDataError: it is no UTF-8 or is larger than 64 MiB.
    """
    found = []
    for line in _text(path, MAX_JSON_BYTES).splitlines():
        try:
            value = parse_json(line)
        except PlainDataError:
            break
        if not isinstance(value, dict):
            break
        found.append(value)
    return found


def parse_json(text: str) -> Any:
    """Parse JSON text.

    Raises:
        PlainDataError: it is no JSON, or nests too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise PlainDataError("its lists and objects nest too deeply") from None
    except ValueError as error:
        raise PlainDataError(str(error)) from error


def _text(path: Path, most: int) -> str:
    with open_regular(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise PlainDataError(f"it is larger than the allowed {most // 1024:,} KiB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PlainDataError(f"it is no UTF-8 text ({error.reason} at byte {error.start:,})") from error


def _check_events(text: str) -> None:
    """Walk through the file's events, which come one by one, before anything is built of them."""
    depth = 0
    for event in yaml.parse(text, _SafeLoader):
        line = getattr(event.start_mark, "line", 0) + 1
        if isinstance(event, AliasEvent):
            raise PlainDataError(f"line {line}: aliases (*{str(event.anchor)[:40]}) are not allowed")
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise PlainDataError(f"line {line}: tags ({str(tag)[:80]}) are not allowed")
        if isinstance(event, ScalarEvent) and len(event.value) > _MAX_SCALAR:
            raise PlainDataError(f"line {line}: a value is longer than the allowed {_MAX_SCALAR:,} characters")
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise PlainDataError(f"line {line}: mappings and lists nest deeper than the allowed {MAX_DEPTH}")


class _UniqueKeys(_SafeLoader):
    """The safe loader, which by itself takes the last of several equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name[:80]!r} stands twice", problem_mark=key.start_mark)
            seen.add(name)
        made: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return made


def _check_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str | int):
                raise PlainDataError(f"the key {str(key)[:80]!r} is neither text nor a whole number")
            _check_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner)
    elif isinstance(value, int) and abs(value) > _MAX_WHOLE:
        raise PlainDataError("a whole number has more than 64 bits")
    elif not (value is None or isinstance(value, str | int | float | bool)):
        raise PlainDataError(f"{str(value)[:80]!r} is a {type(value).__name__}, not a plain value; put it in quotes")
