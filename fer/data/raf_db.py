"""Reader of RAF-DB's basic part: seven expressions, aligned faces of 100 x 100 pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer.data.index import BoolArray, DatasetError, SampleTable, image_files
from fer.data.label_list import Entry, read_label_list

CLASS_NAMES = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")

LIST = Path("EmoLabel", "list_patition_label.txt")  # the spelling of the data set's authors
IMAGES = Path("Image", "aligned")
SUBFOLDERS = (".", "basic", "raf-basic")


def read(root: str | Path, *, expected: Sequence[int] | None = (12271, 3068)) -> SampleTable:
    """The sample table of RAF-DB, checked.

    ``root`` holds ``EmoLabel/list_patition_label.txt`` and ``Image/aligned/*_aligned.jpg``, itself or in ``basic/``
    (the authors' archive) or ``raf-basic/`` (the layout of the EAC code). ``expected`` holds the numbers of training
    and test images; other numbers are a warning, None accepts any.

    Source: Li, Deng and Du, "Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition
    in the Wild", CVPR 2017.

    Raises:
        DatasetError: with every fault of the list and of the image files.
    """
    root = _find(Path(root).expanduser())
    entries, faults = read_label_list(root / LIST, CLASS_NAMES)
    rows: list[Entry] = []
    for entry in entries:
        if not entry.name.startswith(("train_", "test_")) or Path(entry.name).name != entry.name:
            faults.append(
                f"{LIST.name}, line {entry.line}: '{entry.name}' is neither train_... nor test_...; the list names "
                "files like train_00001.jpg"
            )
        else:
            rows.append(entry)
    is_train = np.array([row.name.startswith("train_") for row in rows], dtype=np.bool_)
    for split, count in (("train", int(is_train.sum())), ("test", int((~is_train).sum()))):
        if count == 0:
            faults.append(f"{LIST.name}: no {split}_... line; use the complete list")
    warnings = _check_images(root, rows, faults)
    if faults:
        raise DatasetError(root, faults)
    return SampleTable(
        name="raf_db",
        root=root,
        paths=tuple(root / IMAGES / _image_name(row.name) for row in rows),
        labels=np.array([row.label for row in rows], dtype=np.int64),
        is_train=is_train,
        class_names=CLASS_NAMES,
        names=tuple(row.name for row in rows),
        warnings=(*warnings, *_check_counts(rows, is_train, expected)),
    )


def _find(root: Path) -> Path:
    """The folder that holds the list: ``root`` or one of its known sub-folders."""
    for folder in (root / name for name in SUBFOLDERS):
        if (folder / LIST).is_file():
            return folder
    if not root.is_dir():
        raise DatasetError(root, [f"{root}: no such folder; set data.root to the folder of RAF-DB's basic part"])
    raise DatasetError(
        root,
        [
            f"{LIST}: missing here, in basic/ and in raf-basic/; set data.root to the folder that holds EmoLabel and "
            "Image, and keep the list's official spelling"
        ],
    )


def _image_name(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122, twice as fast as pathlib on 15,000 names
    return f"{stem}_aligned{suffix}"


def _check_images(root: Path, rows: Sequence[Entry], faults: list[str]) -> list[str]:
    """Append the faults of the image files that the list names; warnings about those that it does not name."""
    folder = root / IMAGES
    if not folder.is_dir():
        hint = "unpack aligned.zip there" if folder.with_suffix(".zip").is_file() else "unpack the aligned faces there"
        faults.append(f"{IMAGES}: missing; {hint}")
        return []
    sizes = image_files(folder)
    for row in rows:
        name = _image_name(row.name)
        size = sizes.pop(name, None)
        if size is None:
            faults.append(
                f"{IMAGES / name}: missing, named in {LIST.name}, line {row.line}; restore the image or remove the line"
            )
        elif size == 0:
            faults.append(f"{IMAGES / name}: empty ({LIST.name}, line {row.line}); unpack the image again")
    if not sizes:
        return []
    return [f"{len(sizes):,} images in {IMAGES} are not named in {LIST.name} and are not used, first {min(sizes)}"]


def _check_counts(rows: Sequence[Entry], is_train: BoolArray, expected: Sequence[int] | None) -> list[str]:
    warnings: list[str] = []
    found = (int(is_train.sum()), int((~is_train).sum()))
    if expected is not None and found != tuple(expected):
        train, test = expected
        warnings.append(
            f"{found[0]:,} training and {found[1]:,} test images where RAF-DB has {train:,} and {test:,}: scores do "
            "not compare with published ones (data.reader.expected=null if that is intended)"
        )
    for split in ("train", "test"):
        present = {row.label for row in rows if row.name.startswith(split)}
        absent = [name for label, name in enumerate(CLASS_NAMES) if label not in present]
        if absent:
            warnings.append(f"no {split} image of {', '.join(absent)}")
    return warnings
