"""The project's folder, and what most tests train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


CHOICES = {"method": "eac", "backbone": "tiny", "data": "folder", "noise": "symmetric"}


Train = Callable[..., dict[str, Any]]
