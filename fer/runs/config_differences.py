"""Keys in which two configurations differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], ignored: Sequence[str], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Find the keys whose values differ, but for those in ``ignored``: (dotted key, old value, new value)."""
    for name in sorted({*old, *new}):
        key = f"{prefix}{name}"
        before, after = old.get(name), new.get(name)
        if key in ignored or before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, ignored, f"{key}.")
        else:
            yield key, before, after
