"""Faults that the user can mend, and how entry points tell of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something the user can mend; the message names it and says what to do."""


class ConfigError(UserError):
    """A configuration that cannot be run; the message names the key."""


@contextmanager
def reported(program: str) -> Iterator[None]:
    """End the program with one clear message and exit status 2 on a ``UserError``; other errors pass through."""
    try:
        yield
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
