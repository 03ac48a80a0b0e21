"""Options of ``fer-train``, in any place between the overrides that Hydra reads, and what ``--version`` answers."""

from __future__ import annotations

from collections.abc import Sequence

from fer import __version__

_TAKE_A_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--info",
    "-i", "--experimental-rerun",
)  # fmt: skip
_SECTIONS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""Words that may follow ``--info``; it needs none."""


def options_first(arguments: Sequence[str]) -> list[str]:
    """Put options before overrides, since Hydra takes no override after an option that follows another one."""
    options: list[str] = []
    overrides: list[str] = []
    waiting = [*arguments]
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("-") or word == "-":
            overrides.append(word)
            continue
        options.append(word)
        takes_one = word in _TAKE_A_VALUE and bool(waiting)
        if takes_one and (word not in ("--info", "-i") or waiting[0] in _SECTIONS):
            options.append(waiting.pop(0))
    return options + overrides


def version_line(program: str) -> str:
    """Build the line that ``--version`` prints."""
    return f"{program} {__version__}"
