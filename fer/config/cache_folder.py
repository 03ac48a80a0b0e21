"""The folder in which decoded images and demo faces are kept for all runs."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> str:
    """Give ``$FER_CACHE``, or ``.cache/fer`` in the home folder."""
    return os.environ.get("FER_CACHE") or str(Path(os.environ.get("HOME") or ".", ".cache", "fer"))
