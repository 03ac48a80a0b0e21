"""The order of class folders, names in two Unicode forms, and files that are not read."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer.data.readers import folder
from fer.data.table import IMAGE_SUFFIXES, DatasetError


def tree(root: Path, train: list[str], test: list[str], suffix: str = ".png") -> Path:
    for split, names in (("train", train), ("test", test)):
        for number, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(root / split / name / f"0{suffix}")
    return root


def test_numbered_classes_are_in_the_order_of_their_numbers_and_that_is_said(tmp_path: Path) -> None:
    names = [str(number) for number in range(1, 13)]
    table = folder.read(tree(tmp_path, names, names))
    assert table.class_names == tuple(names)
    for path, label in zip(table.paths, table.labels, strict=True):
        assert path.parent.name == names[label]
    assert any("class folders are numbers (1, 2, 3, ...)" in warning for warning in table.warnings)


def test_numbers_within_names_count_too_and_words_are_sorted_as_before(tmp_path: Path) -> None:
    names = ["class10_fear", "class9_anger", "class1_joy", "b", "a", "Z"]
    table = folder.read(tree(tmp_path, names, names))
    assert table.class_names == ("Z", "a", "b", "class1_joy", "class9_anger", "class10_fear")
    assert not table.warnings


def test_a_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "dégoût") for form in ("NFC", "NFD"))
    assert composed != apart
    table = folder.read(tree(tmp_path, [composed, "joie"], [apart, "joie"]))
    assert table.class_names == (composed, "joie")
    assert table.labels.tolist() == [0, 1, 0, 1]
    assert table.paths[2].parent.name == apart and table.paths[2].is_file()


def test_both_forms_in_one_split_are_joined(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    table = folder.read(tree(tmp_path, [composed, apart, "z"], [composed, "z"]))
    assert table.class_names == ("z", composed) or table.class_names == (composed, "z")
    assert np.bincount(table.labels[table.train]).tolist() in ([2, 1], [1, 2])


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG"])
def test_all_suffixes_of_jpeg_are_read(suffix: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"0{suffix}", "JPEG")
    assert len(folder.read(tmp_path).paths) == 4


def test_other_files_in_class_folders_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, ["a", "b"], ["a", "b"])
    for name in ("1.avif", "2.avif", "3.jp2", "notes", ".hidden"):
        (tmp_path / "train" / "a" / name).write_bytes(b"")
    (warning,) = folder.read(tmp_path).warnings
    assert warning.startswith("3 images in train/ are left out: 2 with .avif, 1 with .jp2; save them as one of .bmp")


def test_one_image_in_another_format_is_counted_whatever_the_case_of_its_suffix(tmp_path: Path) -> None:
    tree(tmp_path, ["a", "b"], ["a", "b"])
    (tmp_path / "test" / "b" / "1.AVIF").write_bytes(b"")
    (warning,) = folder.read(tmp_path).warnings
    assert warning.startswith("1 image in test/ is left out: 1 with .avif; save them as one of .bmp")


def test_a_class_of_images_in_other_formats_only_is_a_fault_that_counts_them(tmp_path: Path) -> None:
    tree(tmp_path, ["a", "b"], ["a", "b"])
    (tmp_path / "train" / "a" / "0.png").rename(tmp_path / "train" / "a" / "0.jp2")
    with pytest.raises(DatasetError, match=r"train/a: no image that is read, but 1 with \.jp2; put images"):
        folder.read(tmp_path)


def test_no_suffix_is_both_read_and_left_out() -> None:
    assert not IMAGE_SUFFIXES & folder.OTHER_IMAGE_SUFFIXES
