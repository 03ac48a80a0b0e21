"""RAF-DB's reader: both layouts, tolerant of how a text file was saved, every fault in one report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.readers import raf_db
from fer.data.table import MAX_FAULTS_SHOWN, DatasetError

LINES = [*(f"train_{number:05d}.jpg {number}" for number in range(1, 8)), "test_0001.jpg 4", "test_0002.jpg 1"]


def make(root: Path, lines: Sequence[str] = LINES, text: bytes | None = None) -> Path:
    """A data set whose list has ``lines`` (or is ``text``) and whose images are those of ``LINES``."""
    (root / "EmoLabel").mkdir(parents=True)
    (root / "Image" / "aligned").mkdir(parents=True)
    content = "\n".join(lines).encode() if text is None else text
    (root / "EmoLabel" / "list_patition_label.txt").write_bytes(content)
    for line in LINES:
        image(root, line.split()[0]).write_bytes(b"image")
    return root


def image(root: Path, name: str) -> Path:
    return root / "Image" / "aligned" / name.replace(".jpg", "_aligned.jpg")


def faults_of(root: Path) -> tuple[str, ...]:
    with pytest.raises(DatasetError) as caught:
        raf_db.read(root, expected=None)
    return caught.value.faults


@pytest.mark.parametrize("inner", [".", "basic", "raf-basic"])
def test_both_published_layouts_are_read(tmp_path: Path, inner: str) -> None:
    make(tmp_path / inner)
    table = raf_db.read(tmp_path, expected=None)
    assert table.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 0]
    assert table.train.tolist() == list(range(7))
    assert table.test.tolist() == [7, 8]
    assert table.class_names == ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
    assert table.file_names[7] == "test_0001.jpg"
    assert table.paths[7].name == "test_0001_aligned.jpg"
    assert all(path.is_file() for path in table.paths)
    assert table.class_counts(table.test).tolist() == [1, 0, 0, 1, 0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(
    ends=st.lists(
        st.sampled_from(["\n", "\r\n", "\r", " \n", "\t\r\n", "\n\n"]), min_size=len(LINES), max_size=len(LINES)
    ),
    lines=st.permutations(LINES),
    bom=st.booleans(),
    tail=st.sampled_from(["", "\n", "\r\n\r\n", "  \n \n"]),
)
def test_the_way_the_list_was_saved_does_not_matter(ends: list[str], lines: list[str], bom: bool, tail: str) -> None:
    text = "".join(line + end for line, end in zip(lines, ends, strict=True)) + tail
    with tempfile.TemporaryDirectory() as folder:
        root = make(Path(folder, "set"), text=text.encode("utf-8-sig" if bom else "utf-8"))
        table = raf_db.read(root, expected=None)
    assert [f"{name} {label + 1}" for name, label in zip(table.file_names, table.labels, strict=True)] == LINES
    assert table.train.tolist() == list(range(7))
    assert [path.name for path in table.paths] == [line.split()[0].replace(".", "_aligned.") for line in LINES]


def test_all_faults_come_in_one_report_with_their_lines(tmp_path: Path) -> None:
    bad = ["train_00002.jpg", "train_00003.jpg 8", "train_00004.jpg happy", "valid_00001.jpg 2", "train_00001.jpg 1"]
    root = make(tmp_path, [*LINES[:1], *bad, *LINES[4:], "7"])
    faults = "\n".join(faults_of(root))
    for expected in (
        "line 2: 'train_00002.jpg' is one column",
        "line 3: label '8' of train_00003.jpg is not one of 1..7",
        "line 4: label 'happy' of train_00004.jpg",
        "line 5: 'valid_00001.jpg' is neither train_... nor test_...",
        "line 6: train_00001.jpg was already listed in line 1",
        "line 12: '7' is one column",
    ):
        assert expected in faults
    assert len(faults.splitlines()) == 6


@pytest.mark.parametrize("label", ["0", "-1", "8", "3.0", "1e0", "x", "٣", "99999999999999999999"])
def test_only_whole_numbers_from_1_to_7_are_labels(tmp_path: Path, label: str) -> None:
    root = make(tmp_path, [f"train_00001.jpg {label}", *LINES[1:]])
    (fault,) = faults_of(root)
    assert f"line 1: label '{label}' of train_00001.jpg" in fault
    assert "1 Surprise" in fault
    assert "7 Neutral" in fault


def test_a_name_cannot_leave_the_image_folder(tmp_path: Path) -> None:
    (fault,) = faults_of(make(tmp_path, [*LINES, "train_/../../../secret.jpg 1"]))
    assert "line 10: 'train_/../../../secret.jpg' is neither" in fault


@pytest.mark.parametrize(("split", "lines"), [("test", LINES[:7]), ("train", LINES[7:]), ("train", [])])
def test_an_empty_split_is_a_fault(tmp_path: Path, split: str, lines: list[str]) -> None:
    assert any(f"no {split}_... line" in fault for fault in faults_of(make(tmp_path, lines)))


def test_missing_parts_say_what_to_do(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path / "nowhere")
    assert "no such folder; set data.root" in fault
    (fault,) = faults_of(tmp_path)
    assert "list_patition_label.txt" in fault
    assert "data.root" in fault


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_list_that_is_not_text_is_one_fault(tmp_path: Path, encoding: str) -> None:
    (fault,) = faults_of(make(tmp_path, text="\n".join(LINES).encode(encoding)))
    assert "list_patition_label.txt: not UTF-8 text" in fault


def test_unlisted_images_absent_classes_and_unusual_counts_are_warnings(tmp_path: Path) -> None:
    root = make(tmp_path, [line for line in LINES if not line.startswith("train_00003")])
    (root / "Image" / "aligned" / "Thumbs.db").write_bytes(b"not an image")
    warnings = raf_db.read(root).warnings
    assert any("1 images" in text and "train_00003_aligned.jpg" in text for text in warnings)
    assert any("6 training and 2 test images where RAF-DB has 12,271 and 3,068" in text for text in warnings)
    assert "no train image of Disgust" in warnings
    assert not any("RAF-DB has" in text for text in raf_db.read(root, expected=None).warnings)
    assert not any("RAF-DB has" in text for text in raf_db.read(root, expected=[6, 2]).warnings)


def test_a_long_report_is_cut_and_says_how_much_is_left(tmp_path: Path) -> None:
    root = make(tmp_path, [*LINES, *(f"train_{number}.jpg 9" for number in range(100, 150))])
    with pytest.raises(DatasetError) as caught:
        raf_db.read(root, expected=None)
    message = str(caught.value)
    assert len(caught.value.faults) == 50
    assert message.startswith(f"50 faults in {root}")
    assert message.count("\n  - ") == MAX_FAULTS_SHOWN
    assert message.endswith("... and 30 more; fer-data check lists them all")


def test_a_table_cannot_be_changed_by_its_users(tmp_path: Path) -> None:
    table = raf_db.read(make(tmp_path), expected=None)
    with pytest.raises(ValueError, match="read-only"):
        table.labels[0] = 5


@pytest.fixture
def unpacked(tmp_path: Path, shared: Path) -> Callable[[], Path]:
    def make_full() -> Path:
        """The official list with an image file for every line."""
        text = (shared / "data" / "raf_labels" / "list_patition_label.txt").read_bytes()
        (tmp_path / "EmoLabel").mkdir()
        (tmp_path / "EmoLabel" / "list_patition_label.txt").write_bytes(text)
        (tmp_path / "Image" / "aligned").mkdir(parents=True)
        for line in text.decode().splitlines():
            image(tmp_path, line.split()[0]).write_bytes(b"image")
        return tmp_path

    return make_full


def test_the_official_list_has_the_official_counts_and_no_warning(unpacked: Callable[[], Path]) -> None:
    table = raf_db.read(unpacked())
    assert table.warnings == ()
    np.testing.assert_array_equal(table.class_counts(table.train), [1290, 281, 717, 4772, 1982, 705, 2524])
    np.testing.assert_array_equal(table.class_counts(table.test), [329, 74, 160, 1185, 478, 162, 680])
