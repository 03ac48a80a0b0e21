"""fer-data cache lists what is kept, and deletes that and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fer.cli import data
from fer.data.cache_contents import cache_entries
from fer.data.images.store import ImageStore
from fer.data.readers import folder as class_folders
from fer.files.lock import acquire


def decode(root: Path, cache: Path) -> ImageStore:
    return ImageStore.open(class_folders.read(root), size=32, cache_dir=cache)


@pytest.fixture
def cache(shapes: Path, tmp_path: Path) -> Path:
    """A cache folder with one store, demo faces, and files of somebody else."""
    cache = tmp_path / "cache"
    decode(shapes, cache)
    (cache / "demo-7-7-0" / "Image").mkdir(parents=True)
    (cache / "demo-7-7-0" / "Image" / "a.jpg").write_bytes(b"x" * 1000)
    (cache / "thesis.npy").write_text("mine")
    (cache / "demo-notes").mkdir()
    (cache / "elsewhere").mkdir()
    (cache / "demo-1-1-1").symlink_to(cache / "elsewhere")
    return cache


OTHERS = {"thesis.npy", "demo-notes", "elsewhere", "demo-1-1-1"}


def test_everything_that_is_kept_is_listed_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [entry.kind for entry in cache_entries(cache)]
    assert {*kinds} >= {"decoded images", "demo faces"} and len(kinds) == len({*kinds})
    assert all(entry.days < 1 for entry in cache_entries(cache))
    before = sorted(cache.rglob("*"))
    assert data.main(["cache", "list", "--cache-dir", str(cache)]) == 0
    said = capsys.readouterr().out
    assert "folder-32px-" in said and "demo-7-7-0" in said and "thesis" not in said
    assert sorted(cache.rglob("*")) == before


def test_only_what_is_kept_is_cleared(cache: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["cache", "clear", "--cache-dir", str(cache)]) == 0
    assert {path.name for path in cache.iterdir()} == OTHERS
    assert f"deleted from {cache}" in capsys.readouterr().out
    assert len(decode(shapes, cache).images) == 81, "it is made again"


def test_what_was_read_lately_stays(cache: Path) -> None:
    old = time.time() - 40 * 86_400
    for file in (cache / "demo-7-7-0").rglob("*.jpg"):
        os.utime(file, (old, old))
    assert data.main(["cache", "clear", "--cache-dir", str(cache), "--unused-for", "30"]) == 0
    names = {path.name for path in cache.iterdir()}
    assert "demo-7-7-0" not in names and any(name.startswith("folder-32px-") for name in names)


def test_what_is_being_made_stays(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store,) = cache.glob("folder-32px-*.npy")
    with acquire(store.with_suffix(".lock"), 0):
        assert data.main(["cache", "clear", "--cache-dir", str(cache)]) == 0
    assert store.is_file() and "1 left: a process is just making them" in capsys.readouterr().out


def test_an_absent_folder_holds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["cache", "list", "--cache-dir", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"0.0 MB in {tmp_path / 'none'}\n"
