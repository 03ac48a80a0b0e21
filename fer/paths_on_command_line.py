"""Paths with spaces, commas, brackets or ``=`` in them on a command line that Hydra reads."""

from __future__ import annotations

import re
import sys


def quote_paths(*keys: str) -> None:
    """Put the values of ``key=value`` arguments in quotes where Hydra's grammar asks for them.

    The shell has taken off the user's own by then. A list, ``[a,b]``, and ``null`` stay as they are.
    """
    sys.argv[1:] = [_quoted(argument, keys) for argument in sys.argv[1:]]


def _quoted(argument: str, keys: tuple[str, ...]) -> str:
    key, sign, value = argument.partition("=")
    if not sign or key not in keys or not value or value == "null" or (value[0], value[-1]) == ("[", "]"):
        return argument
    # OmegaConf would look up ${...}; Hydra takes a backslash as one unless a quote follows.
    escaped = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", r"\'"), escaped)
    return f"{key}='{escaped}'"
