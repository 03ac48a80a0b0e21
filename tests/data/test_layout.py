"""The message about an unexpected layout of RAF-DB says what was found and what was expected."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fer.data.label_list import read_label_list
from fer.data.readers import demo, raf_db
from fer.data.table import DatasetError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layout") / "set"
    demo.write(root, train=6, test=4, seed=0)
    return root


def fault(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        raf_db.read(root, expected=None)
    (only,) = caught.value.faults
    return only


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "set"))


def test_the_usual_layout_has_no_fault(root: Path) -> None:
    assert len(raf_db.read(root, expected=None).paths) == 10


def test_another_suffix_is_named(root: Path) -> None:
    for path in (root / raf_db.IMAGES).iterdir():
        path.rename(path.with_suffix(".png"))
    found = "Image/aligned/train_00001_aligned.png is; the list's names"
    assert fault(root).startswith(f"Image/aligned/train_00001_aligned.jpg: not there, but {found}")


def test_images_that_are_not_the_aligned_ones_are_named(root: Path) -> None:
    for path in (root / raf_db.IMAGES).iterdir():
        path.rename(path.with_name(path.name.replace("_aligned", "")))
    assert "but Image/aligned/train_00001.jpg is; take the aligned images" in fault(root)


@pytest.mark.parametrize("place", ["Image/aligned/aligned", "Image"])
def test_images_one_level_off_are_named(place: str, root: Path) -> None:
    (root / place).mkdir(exist_ok=True)
    for path in [*(root / raf_db.IMAGES).glob("*.jpg")]:
        path.rename(root / place / path.name)
    assert f"but {place}/train_00001_aligned.jpg is; move the images to Image/aligned" in fault(root)


def test_some_missing_images_are_no_other_layout(root: Path) -> None:
    (root / raf_db.IMAGES / "train_00001_aligned.jpg").unlink()
    assert len(raf_db.read(root, expected=None).paths) == 10


@pytest.mark.parametrize("line", ["train_00001.jpg 5 1", "train_00001.jpg 0.93 5", "train_00001.PNG x y 5"])
def test_a_third_column_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"train_00002.jpg 1\n{line}\n")
    entries, faults = read_label_list(tmp_path / "list.txt", raf_db.CLASS_NAMES)
    assert [entry.name for entry in entries] == ["train_00002.jpg"]
    expected = f"{len(line.split())} columns, where two are expected; write the file name, a blank and the label"
    assert faults == [f"list.txt, line 2: {expected}"]


def test_names_with_blanks_stay_names(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("my face 1.jpg 5\n")
    (entry,), faults = read_label_list(tmp_path / "list.txt", raf_db.CLASS_NAMES)
    assert (entry.name, entry.label, faults) == ("my face 1.jpg", 4, [])
