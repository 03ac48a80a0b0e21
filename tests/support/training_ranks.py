"""Training in one of several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer.config.compose import compose
from fer.launch import run_job
from support.project import CHOICES


def train(folder: Path, overrides: list[str], choices: dict[str, Any] = CHOICES) -> dict[str, Any] | None:
    return run_job.run(compose(overrides), folder, choices)
