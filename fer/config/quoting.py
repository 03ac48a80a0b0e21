"""Paths with spaces, commas, brackets, ``=`` or letters beyond ASCII in them on a command line that Hydra reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PATHS_OF_A_RUN = ("data.root", "noise.path", "cache_dir", "output_dir", "backbone.weights")
_FOREIGN = re.compile(r"[^\x20-\x7e]|[!#&;<=>^`~]")


def quote_paths(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Put the values of ``key=value`` arguments in quotes for Hydra's grammar; OmegaConf does not see them.

    The shell has taken off the user's own by then. A list, ``[a,b]``, and ``null`` stay as they are.
    """
    return [_quoted(argument, keys, for_omegaconf=False) for argument in arguments]


def quote_foreign_paths(arguments: Sequence[str]) -> list[str]:
    """Quote those paths in the arguments of a training that Hydra could not read at all.

    Others stay as they are, since commas and brackets make a sweep, and a path in quotes is another one to it.
    """
    return [
        _quoted(argument, _PATHS_OF_A_RUN, for_omegaconf=True) if _is_foreign(argument.partition("=")[2]) else argument
        for argument in arguments
    ]


def _is_foreign(value: str) -> bool:
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return bool(_FOREIGN.search(value)) and "," not in value and not in_quotes


def _quoted(argument: str, keys: Sequence[str], *, for_omegaconf: bool) -> str:
    key, sign, value = argument.partition("=")
    if not sign or key not in keys or not value or value == "null" or (value[0], value[-1]) == ("[", "]"):
        return argument
    # OmegaConf would look up ${...}; Hydra takes a backslash as one unless a quote follows.
    escaped = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value) if for_omegaconf else value
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", r"\'"), escaped)
    return f"{key}='{escaped}'"
