"""Fixtures shared by the tests of inference."""

from __future__ import annotations

import pytest
from support.project import CHOICES

from fer.config.compose import compose
from fer.launch import run_job
from fer.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Train the small run that fer-demo shows."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    run_job.run(compose(overrides), folder, CHOICES)
    return RunFolder(folder)
