"""Names of classes, as data sets, run folders and exported files bring them."""

from __future__ import annotations

from collections.abc import Sequence

from fer.files.visible_text import has_controls, visible_name

MAX_CLASSES = 1000
_LONGEST = 200


def class_names_fault(names: Sequence[object]) -> str | None:
    """Say why these cannot be the names of K classes; ``None`` where they can.

    There must be 2 to 1,000 of them, different texts of 1 to 200 characters in one line.
    """
    if not 2 <= len(names) <= MAX_CLASSES:
        return f"{len(names):,} classes, where there must be 2 to {MAX_CLASSES:,}"
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST or has_controls(name):
            return f"{visible_name(repr(name))[:80]} cannot be the name of a class"
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    return None if twice is None else f"the class name {twice!r} stands twice"
