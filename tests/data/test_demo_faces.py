"""Demo faces: exact labels, the same faces from the same seed, RAF-DB's layout, and no half-made folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer.data.readers import demo, raf_db
from fer.data.table import DatasetError

COUNTS = {"train": 12, "test": 5}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "faces"
    demo.write(root, **COUNTS, seed=3)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@settings(max_examples=40, deadline=None)
@given(expression=st.integers(0, 6), seed=st.integers(0, 2**32))
def test_a_face_is_100_by_100_uint8_rgb_and_follows_from_its_generator(expression: int, seed: int) -> None:
    face = demo.draw_face(expression, np.random.default_rng(seed))
    assert face.shape == (100, 100, 3)
    assert face.dtype == np.uint8
    assert face.std() > 8
    assert np.array_equal(face, demo.draw_face(expression, np.random.default_rng(seed)))


@pytest.mark.parametrize("expression", [-1, 7])
def test_an_unknown_expression_is_refused(expression: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.6"):
        demo.draw_face(expression, np.random.default_rng(0))


def test_no_two_faces_are_alike_within_or_between_splits_and_seeds() -> None:
    pictures = [
        image.tobytes()
        for split in ("train", "test")
        for seed in (0, 1)
        for _, _, image in demo.faces(split, 25, seed=seed)
    ]
    assert len(set(pictures)) == len(pictures)


def test_a_larger_count_only_adds_faces() -> None:
    few = [(name, label, image.tobytes()) for name, label, image in demo.faces("train", 6, seed=5)]
    many = [(name, label, image.tobytes()) for name, label, image in demo.faces("train", 9, seed=5)]
    assert many[:6] == few


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_faces(small_set: Path, tmp_path: Path) -> None:
    demo.write(tmp_path / "again", **COUNTS, seed=3)
    assert files(tmp_path / "again") == files(small_set)
    demo.write(tmp_path / "other", **COUNTS, seed=4)
    image = raf_db.IMAGES / "train_00001_aligned.jpg"
    assert (tmp_path / "other" / image).read_bytes() != (small_set / image).read_bytes()


def test_the_layout_is_that_of_raf_db(small_set: Path) -> None:
    lines = (small_set / "EmoLabel" / "list_patition_label.txt").read_text().splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [f"train_{n:05d}.jpg" for n in range(1, 13)] + [f"test_{n:04d}.jpg" for n in range(1, 6)]
    assert {int(line.split()[1]) for line in lines} <= set(range(1, 8))
    for name in names:
        with Image.open(small_set / "Image" / "aligned" / name.replace(".jpg", "_aligned.jpg")) as image:
            assert (image.size, image.mode, image.format) == ((100, 100), "RGB", "JPEG")


def test_the_reader_returns_the_labels_the_faces_were_drawn_with(small_set: Path) -> None:
    table = demo.read(small_set, **COUNTS, seed=3)
    drawn = [label for split, count in COUNTS.items() for _, label, _ in demo.faces(split, count, seed=3)]
    assert table.labels.tolist() == drawn
    assert table.is_train.tolist() == [True] * 12 + [False] * 5
    assert (table.name, table.class_names) == ("demo", raf_db.CLASS_NAMES)
    assert not [warning for warning in table.warnings if "published" in warning]


def test_classes_come_in_the_stated_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "draw_face", lambda *_: np.zeros((100, 100, 3), dtype=np.uint8))
    labels = [label for _, label, _ in demo.faces("train", 4000, seed=0)]
    shares = np.bincount(labels, minlength=7) / len(labels)
    assert sum(demo.CLASS_SHARES) == pytest.approx(1.0)
    assert np.abs(shares - demo.CLASS_SHARES).max() < 0.02


def test_expressions_can_be_told_apart() -> None:
    """Linear discriminants on coarse gray pictures do far better than chance (0.14) on faces they have not seen."""

    def features(number: int) -> np.ndarray:
        image = Image.fromarray(demo.draw_face(number % 7, np.random.default_rng([9, number]))).convert("L")
        gray = np.asarray(image.resize((25, 25), Image.Resampling.BOX), dtype=np.float64)[5:24, 3:22].ravel()
        return (gray - gray.mean()) / gray.std()

    x = np.stack([features(number) for number in range(490)])
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    truth = np.arange(len(x)) % 7
    seen, unseen = x[:350], x[350:]
    weights = np.linalg.solve(seen.T @ seen + 100.0 * np.eye(x.shape[1]), seen.T @ np.eye(7)[truth[:350]])
    right = (unseen @ weights).argmax(1) == truth[350:]
    assert right.mean() > 0.7
    assert min(right[truth[350:] == label].mean() for label in range(7)) > 0.4


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def interrupted(*args: object, **kwargs: object) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise KeyboardInterrupt
        return np.zeros((100, 100, 3), dtype=np.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(demo, "draw_face", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo.write(tmp_path / "faces", **COUNTS, seed=0)
    assert list(tmp_path.iterdir()) == []
    demo.write(tmp_path / "faces", **COUNTS, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_a_set_that_is_there_is_not_drawn_again(small_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "draw_face", lambda *_: pytest.fail("drawn again"))
    demo.write(small_set, **COUNTS, seed=3)


def test_the_slower_of_two_writers_accepts_the_folder_of_the_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, draw = tmp_path / "faces", demo.draw_face

    def overtaken(expression: int, rng: np.random.Generator) -> np.ndarray:
        monkeypatch.setattr(demo, "draw_face", draw)
        demo.write(root, **COUNTS, seed=0)
        return draw(expression, rng)

    monkeypatch.setattr(demo, "draw_face", overtaken)
    demo.write(root, **COUNTS, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]
    assert len(demo.read(root, **COUNTS, seed=0).paths) == 17


def test_another_demo_set_is_kept_and_the_difference_named(small_set: Path) -> None:
    before = files(small_set)
    with pytest.raises(DatasetError, match=r"(?s)demo\.json.*'seed': 3.*'seed': 4.*remove the folder or choose"):
        demo.read(small_set, **COUNTS, seed=4)
    assert files(small_set) == before


def test_a_foreign_folder_or_file_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "picture.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for root in (folder, tmp_path / "file"):
        with pytest.raises(DatasetError, match="choose an absent or empty folder"):
            demo.write(root, **COUNTS, seed=0)
    assert files(tmp_path) == {"holiday/picture.txt": b"mine", "file": b"mine"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    demo.write(tmp_path, train=1, test=1, seed=0)
    assert len(files(tmp_path)) == 4


@pytest.mark.parametrize("wrong", [{"train": 0}, {"test": 0}, {"seed": -1}])
def test_impossible_numbers_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match="at least"):
        demo.write(tmp_path / "faces", **{**COUNTS, "seed": 0, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_the_contact_sheet_shows_a_row_per_class() -> None:
    sheet = np.asarray(demo.contact_sheet(3, seed=1))
    left = sheet.shape[1] - 3 * 104
    rows = [sheet[row * 104 : row * 104 + 104] for row in range(7)]
    assert sheet.shape[0] == 7 * 104 + 4
    assert all((row[:, :left] < 128).any() for row in rows), "a class has no name"
    assert all(row[:, left:].std() > 20 for row in rows)
    assert np.array_equal(sheet, np.asarray(demo.contact_sheet(3, seed=1)))
