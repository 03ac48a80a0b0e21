"""Text of strangers as a terminal, a table or a picture may show it: control characters become visible escapes."""

from __future__ import annotations

import re
from collections.abc import Sequence

# C0 and C1 controls, marks that reverse or end lines, byte order marks, halves of characters.
_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_CONTROLS = re.compile(f"[{_CONTROL}]")
_CONTROLS_AND_BREAKS = re.compile(f"[{_CONTROL}\t\n]")


def visible(text: str) -> str:
    r"""Replace control characters with escapes such as ``\x1b``; line feeds and tabs stay."""
    return _CONTROLS.sub(_escape, text)


def visible_name(name: object) -> str:
    r"""Replace control characters in a name, such as a file's, with escapes, line feeds and tabs too."""
    return _CONTROLS_AND_BREAKS.sub(_escape, str(name))


def has_controls(name: str) -> bool:
    """Tell whether ``visible_name`` would change a name."""
    return bool(_CONTROLS_AND_BREAKS.search(name))


def tell_apart(headings: Sequence[str]) -> list[str]:
    """Number headings that would look the same, as those of different values can: ``a``, ``a (2)``."""
    taken: set[str] = set()
    told: list[str] = []
    for heading in headings:
        name, number = heading, 1
        while " ".join(name.split()) in taken:
            number += 1
            name = f"{heading} ({number})"
        taken.add(" ".join(name.split()))
        told.append(name)
    return told


def verbatim(text: str) -> str:
    """Put a text between fences longer than any in it: TensorBoard would take it for Markdown, with links and pictures.

    Control characters other than line ends become U+FFFD: the Markdown that TensorBoard uses keeps some for itself.
    """
    lines = [
        "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)
        for line in text.splitlines()
    ]
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
    return "\n".join([fence, *lines, fence])


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
