"""Checks of the files and processes that launchers leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.interruptions import EPOCHS

ALL_EPOCHS = [f"{epoch + 1}/{EPOCHS}" for epoch in range(EPOCHS)]


def run_folders(output: Path) -> list[Path]:
    return sorted(
        {file.parent for file in output.rglob("config.yaml")}, key=lambda path: path.relative_to(output).parts
    )


SLURM = pytest.param("slurm", marks=pytest.mark.slurm)
