"""Reader of RAF-DB's basic part: seven expressions, aligned faces of 100 x 100 pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer.data.label_list import Entry, read_label_list
from fer.data.table import BoolArray, DatasetError, SampleTable, image_files

CLASS_NAMES = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")

LIST = Path("EmoLabel", "list_patition_label.txt")  # the spelling of the data set's authors
IMAGES = Path("Image", "aligned")
_LOOKED_AT = 20
SUBFOLDERS = (".", "basic", "raf-basic")


def read(root: str | Path, *, expected: Sequence[int] | None = (12271, 3068)) -> SampleTable:
    """Read and check the sample table of RAF-DB.

    ``root`` holds ``EmoLabel/list_patition_label.txt`` and ``Image/aligned/*_aligned.jpg``, itself or in ``basic/``
    (the authors' archive) or ``raf-basic/`` (the layout of the EAC code). ``expected`` holds the numbers of training
    and test images; other numbers are a warning, None accepts any.

    Source: Li, Deng and Du, "Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition
    in the Wild", CVPR 2017.

    The table is sorted, training images first, by the number in their names, as the published list is: another order
    of its lines changes nothing.

    Raises:
        DatasetError: with every fault of the list.
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
    rows.sort(key=lambda row: (not row.name.startswith("train_"), len(row.name), row.name))
    is_train = np.array([row.name.startswith("train_") for row in rows], dtype=np.bool_)
    for split, count in (("train", int(is_train.sum())), ("test", int((~is_train).sum()))):
        if count == 0 and (entries or not faults):
            faults.append(f"{LIST.name}: no {split}_... line; use the complete list")
    paths = tuple(root / IMAGES / _image_name(row.name) for row in rows)
    faults += _other_layout(root, paths)
    table = SampleTable(
        name="raf_db",
        root=root,
        paths=paths,
        labels=np.array([row.label for row in rows], dtype=np.int64),
        is_train=is_train,
        class_names=CLASS_NAMES,
        names=tuple(row.name for row in rows),
        places=tuple(f"{LIST.name}, line {row.line}" for row in rows),
        warnings=(*_unlisted(root / IMAGES, paths), *_check_counts(rows, is_train, expected)),
        partial=bool(faults),
    )
    if faults:
        raise DatasetError(root, faults, table)
    return table


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


def _other_layout(root: Path, paths: Sequence[Path]) -> list[str]:
    """Say what is found in the place of the images where none of the first ones is there."""
    first = paths[:_LOOKED_AT]
    if not first or any(os.access(path, os.F_OK) for path in first):
        return []
    wanted, stem = first[0], first[0].stem
    plain = stem.removesuffix("_aligned")
    folder = root / IMAGES
    places = [folder, *sorted(path for path in _listed(folder) if not path.suffix), folder.parent]
    for place in places:
        names = {path.name for path in _listed(place)}
        for name in sorted(name for name in names if Path(name).stem in (stem, plain)):
            found = (place / name).relative_to(root)
            if place != folder:
                remedy = f"move the images to {IMAGES}"
            elif Path(name).stem == plain:
                remedy = "take the aligned images of the archive, or rename these"
            else:
                remedy = "the list's names and the images must have the same ending: rename one of them"
            return [f"{wanted.relative_to(root)}: not there, but {found} is; {remedy}"]
    return []


def _listed(folder: Path) -> list[Path]:
    try:
        return [*folder.iterdir()]
    except OSError:
        return []


def _image_name(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122, twice as fast as pathlib on 15,000 names
    return f"{stem}_aligned{suffix}"


def _unlisted(folder: Path, paths: Sequence[Path]) -> list[str]:
    """A warning about images that the list does not name."""
    try:
        unlisted = set(image_files(folder)) - {path.name for path in paths}
    except OSError:
        return []  # the listed images cannot be read either; each is reported
    if not unlisted:
        return []
    first = min(unlisted)
    return [f"{len(unlisted):,} images in {IMAGES} are not named in {LIST.name} and are not used, first {first}"]


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
