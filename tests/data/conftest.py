"""Fixtures shared by the tests of data."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.stored_faces import make_faces


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test of this folder as ``measured``: all of ``fer/data`` is in the report on coverage."""
    item.add_marker(pytest.mark.measured)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Make a folder of five small PNG files."""
    return make_faces(tmp_path / "faces")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Name a cache folder, which does not exist yet."""
    return tmp_path / "cache"
