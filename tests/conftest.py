"""Fixtures shared by the suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def one_thread_per_worker() -> None:
    """The suite runs in parallel processes; more threads than cores would only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data that is not part of the project; a test that asks for it is skipped where it is absent."""
    folder = Path(os.environ.get("FER_SHARED", PROJECT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the data folder in {folder} (set FER_SHARED)")
    return folder
