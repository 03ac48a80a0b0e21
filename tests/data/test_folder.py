"""Class folders: any classes, in sorted order, the same in both splits, every fault in one report."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.readers import folder
from fer.data.table import DatasetError


def put(path: Path, content: bytes = b"image") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def faults_of(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        folder.read(root)
    return "\n".join(caught.value.faults)


@settings(max_examples=25, deadline=None)
@given(
    classes=st.lists(
        st.text("abcXYZ019 _-éß", min_size=1, max_size=8).map(str.strip).filter(bool),
        min_size=2,
        max_size=9,
        unique_by=str.casefold,
    ),
    count=st.integers(1, 3),
)
def test_every_image_gets_the_label_of_its_folder(classes: list[str], count: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in classes:
            for number in range(count):
                put(root / "train" / name / f"{number}.png")
            put(root / "test" / name / "only.JPG")
        table = folder.read(root)
    assert table.class_names == tuple(sorted(classes, key=lambda n: (re.sub("[0-9]+", lambda d: d[0].zfill(9), n), n)))
    assert all(
        path.parent.name == table.class_names[label] for path, label in zip(table.paths, table.labels, strict=True)
    )
    assert [path.parent.parent.name == "train" for path in table.paths] == table.is_train.tolist()
    assert (len(table.train), len(table.test)) == (count * len(classes), len(classes))
    assert table.file_names[0] == f"train/{table.class_names[0]}/0.png"


def test_only_images_in_class_folders_are_read_and_the_rest_is_named(tmp_path: Path) -> None:
    for name in ("train/a/1.jpeg", "train/b/1.WEBP", "test/a/1.tif", "test/b/1.bmp"):
        put(tmp_path / name)
    for name in ("train/a/notes.txt", "train/a/.hidden.jpg", "train/.cache/1.jpg"):
        put(tmp_path / name)
    assert folder.read(tmp_path).warnings == ()
    for name in ("val/a/1.jpg", "train/stray.jpg", "train/a/deeper/1.jpg"):
        put(tmp_path / name)
    table = folder.read(tmp_path)
    assert len(table.paths) == 4
    warnings = "\n".join(table.warnings)
    for expected in ("val/ is not read", "1 images directly in train/", "first in train/a"):
        assert expected in warnings


def test_all_faults_come_in_one_report(tmp_path: Path) -> None:
    for name in ("train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/c/1.jpg"):
        put(tmp_path / name)
    (tmp_path / "train/c").mkdir()
    faults = faults_of(tmp_path)
    for expected in ("test/b: missing", "train/c: no image"):
        assert expected in faults
    assert len(faults.splitlines()) == 2


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    for name in ("train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "elsewhere/1.jpg"):
        put(tmp_path / name)
    (tmp_path / "test/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/a/back").symlink_to(tmp_path / "train")
    (tmp_path / "train/a/gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "train/b/itself.jpg").symlink_to(tmp_path / "train/b/itself.jpg")
    table = folder.read(tmp_path)
    assert [name for name in table.file_names if name.startswith("test/b")] == ["test/b/1.jpg"]
    assert {"train/a/gone.jpg", "train/b/itself.jpg"} < {*table.file_names}, "not left out in silence"
    assert any("first in train/a" in warning for warning in table.warnings)
    for split in ("train", "test"):
        (tmp_path / split / "c").symlink_to(tmp_path / split / "c")
    faults = faults_of(tmp_path)
    assert "train/c: cannot be read (Too many levels of symbolic links)" in faults
    assert "test/c: cannot be read (Too many levels of symbolic links)" in faults
    assert len(faults.splitlines()) == 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], "train: missing"),
        (["test/a/1.jpg", "test/b/1.jpg"], "train: missing"),
        (["train/a/1.jpg", "test/a/1.jpg"], "at least two classes"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/B/1.jpg"], "test/b: missing"),
    ],
)
def test_an_incomplete_tree_is_a_fault(tmp_path: Path, files: list[str], expected: str) -> None:
    for name in files:
        put(tmp_path / name)
    assert expected in faults_of(tmp_path)


def test_a_missing_root_says_which_key_to_set(tmp_path: Path) -> None:
    assert "set data.root" in faults_of(tmp_path / "nowhere")
