"""CSV tables that the program writes."""

from __future__ import annotations

import csv
from pathlib import Path


def rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file with a header."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
