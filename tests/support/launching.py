"""Files that launchers leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.interruptions import EPOCHS

ALL_EPOCHS = [f"{epoch + 1}/{EPOCHS}" for epoch in range(EPOCHS)]


def run_folders(output: Path) -> list[Path]:
    """Find the folders of all runs, failed ones included, in the order of their paths."""
    found = {file.parent for name in ("config.yaml", "error.txt") for file in output.rglob(name)}
    return sorted(found, key=lambda folder: folder.relative_to(output).parts)


SLURM = pytest.param("slurm", marks=pytest.mark.slurm)
