"""``fer-data check`` finds re-encoded and mirrored copies of test faces, pictures under two labels, and empty ones."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fer.cli import data as data_cli
from fer.data.images.copies import Copy, constant_images, find_copies
from fer.data.readers.demo import draw_face


@pytest.fixture(scope="module")
def faces() -> list[Image.Image]:
    """Sixty different demo faces."""
    return [Image.fromarray(draw_face(number % 7, np.random.default_rng([5, number]))) for number in range(60)]


def arrays(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture.convert("RGB")).transpose(2, 0, 1) for picture in pictures])


def again(picture: Image.Image, folder: Path, quality: int) -> Image.Image:
    picture.save(folder / "again.jpg", quality=quality)
    with Image.open(folder / "again.jpg") as read:
        return read.convert("RGB")


def test_copies_are_found_and_different_faces_are_not(faces: list[Image.Image], tmp_path: Path) -> None:
    copies = [again(faces[3], tmp_path, 70), ImageOps.mirror(faces[9]), ImageOps.mirror(again(faces[20], tmp_path, 70))]
    images = arrays([*faces, *copies])
    rows = np.arange(len(images))
    found = find_copies(images, rows[60:], rows[:60])
    assert found == [Copy(60, 3, False), Copy(61, 9, True), Copy(62, 20, True)]
    assert find_copies(images, rows[:60], rows[:60]) == []
    assert find_copies(images, rows, rows) == found


def test_pictures_of_one_color_are_found_and_are_no_copies_of_each_other() -> None:
    images = arrays([Image.new("RGB", (40, 40), color) for color in ("black", "white", "red")])
    rows = np.arange(3)
    assert constant_images(images, rows).tolist() == [0, 1, 2]
    assert find_copies(images, rows, rows) == []


@pytest.mark.parametrize("name", ["lfw_expr7", "ict_faces7"])
def test_no_pair_of_a_thousand_different_aligned_faces_is_taken_for_one(
    name: str, shared: Path, tmp_path: Path
) -> None:
    pictures = []
    with tarfile.open(shared / "data" / f"{name}.tar") as archive:
        for member in archive:
            if member.name.endswith("_aligned.jpg") and len(pictures) < 1000:
                content = archive.extractfile(member)
                assert content is not None
                with Image.open(content) as picture:
                    pictures.append(picture.convert("RGB"))
    images = arrays(pictures)
    rows = np.arange(len(images))
    assert len(images) == 1000
    assert find_copies(images, rows, rows) == []
    sample = [again(picture, tmp_path, 70) for picture in pictures[:200]]
    both = np.concatenate([images, arrays(sample)])
    found = find_copies(both, np.arange(1000, 1200), rows)
    assert [(copy.row - 1000, copy.of) for copy in found] == [(number, number) for number in range(200)]


def test_check_tells_of_all_of_them(
    faces: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for split, names in (("train", "ab"), ("test", "ab")):
        for name in names:
            (root / split / name).mkdir(parents=True)
    for number in range(8):
        faces[number].save(root / "train" / "ab"[number % 2] / f"{number}.png")
        faces[number + 20].save(root / "test" / "ab"[number % 2] / f"{number}.png")
    again(faces[1], tmp_path, 70).save(root / "test" / "b" / "reencoded.png")
    ImageOps.mirror(faces[2]).save(root / "test" / "a" / "mirrored.png")
    again(faces[3], tmp_path, 80).save(root / "train" / "a" / "other_label.png")
    Image.new("RGB", (100, 100), "gray").save(root / "train" / "a" / "empty.png")
    assert data_cli.main(["check", "data=folder", f"data.root={root}", f"cache_dir={tmp_path / 'cache'}"]) == 0
    printed = capsys.readouterr().out
    assert "2 test images are also training images, re-encoded or mirrored (1)" in printed
    assert "test/a/mirrored.png = train/a/2.png" in printed
    assert (
        "1 pictures stand under two labels in train, first train/a/other_label.png and train/b/3.png (a and b)"
        in printed
    )
    assert "1 images show nothing but one color, first train/a/empty.png" in printed
