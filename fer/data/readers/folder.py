"""Reader of plain class folders, ``train/<class>/*`` and ``test/<class>/*``, for a user's own data."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fer.data.table import IMAGE_SUFFIXES, DatasetError, SampleTable, image_files

SPLITS = ("train", "test")
OTHER_IMAGE_SUFFIXES = frozenset({
    ".avif", ".heic", ".heif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jxl", ".tga", ".psd", ".eps", ".svg",
    ".ico", ".dds", ".pcx", ".sgi", ".xbm", ".apng", ".mpo", ".dng", ".nef", ".cr2", ".arw",
})  # fmt: skip
"""Suffixes of images that are counted but not read: not every build of Pillow decodes AVIF and JPEG 2000."""
_LONGEST_NUMBER = 100


def read(root: str | Path) -> SampleTable:
    """Read and check the sample table of a tree of class folders.

    The classes are the folder names in natural order (``2`` before ``10``), at least two and the same in both splits; a
    name in two Unicode forms is one class. ``test`` may be missing, for a cross-validation. Files without an image
    suffix, hidden files and folders, and folders inside a class folder are not read. The data set's names for its files
    are their paths below ``root`` (``train/happy/001.jpg``).

    Raises:
        DatasetError: with every fault of the tree.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DatasetError(root, [f"{root}: no such folder; set data.root to the folder that holds train and test"])
    faults: list[str] = []
    classes: dict[str, dict[str, list[str]]] = {}
    for split in SPLITS:
        if (root / split).is_dir():
            classes[split] = _folders_by_class(root / split)
        elif split == "train" or not classes:
            faults.append(f"{split}: missing; make the folder {split}/ with one folder of images per class")
    if len(classes) == len(SPLITS):
        faults += _compare(classes["train"], classes["test"])

    paths: list[Path] = []
    labels: list[int] = []
    is_train: list[bool] = []
    class_names = sorted({name for folders in classes.values() for name in folders}, key=_natural)
    for split, folders in classes.items():
        named = [(name, Path(split, each)) for name in sorted(folders, key=_natural) for each in folders[name]]
        for name, folder in named:
            try:
                files = image_files(root / folder)
            except OSError as error:
                faults.append(f"{folder}: cannot be read ({error.strerror}); mend it or remove it")
                continue
            if not files:
                others = _in_words(_other_suffixes(root / folder))
                found = f"no image that is read, but {others}" if others else "no image"
                faults.append(f"{folder}: {found}; put images of this class there ({_suffixes()}) or remove it")
            paths += [root / folder / file for file in files]
            labels += [class_names.index(name)] * len(files)
            is_train += [split == "train"] * len(files)
    table = SampleTable(
        name="folder",
        root=root,
        paths=tuple(paths),
        labels=np.array(labels, dtype=np.int64),
        is_train=np.array(is_train, dtype=np.bool_),
        class_names=tuple(class_names),
        warnings=() if faults else (*_numbered(class_names), *_unread(root)),
        partial=bool(faults),
    )
    if faults:
        raise DatasetError(root, faults, table)
    return table


def _suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))


def _folders(parent: Path) -> list[str]:
    with os.scandir(parent) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))


def _folders_by_class(parent: Path) -> dict[str, list[str]]:
    """Group folder names by the class that they name: the name in Unicode's composed form."""
    found: dict[str, list[str]] = {}
    for name in _folders(parent):
        found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return found


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Order names as ``sorted`` does, but numbers in them by size: 1, 2, 10."""
    parts = re.findall(r"[0-9]+|[^0-9]", name)
    key = [("0", int(part[:_LONGEST_NUMBER])) if part[0] in "0123456789" else (part, -1) for part in parts]
    return key, name


def _numbered(class_names: Sequence[str]) -> list[str]:
    """Warn where classes are called by numbers: a label list counts by their order and not by their names."""
    if not class_names or not all(re.fullmatch("[0-9]+", name) for name in class_names):
        return []
    shown = ", ".join([*class_names[:3], "..."] if len(class_names) > 4 else class_names)
    return [
        f"the class folders are numbers ({shown}): a label list counts classes from 1 in this order, whatever they are "
        "called; names such as 3_disgust would say more"
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether a path is to be read as a class folder; includes broken links, so that reading reports them."""
    if not entry.is_symlink():
        return entry.is_dir()
    path = Path(entry)
    return path.is_dir() or not (path.exists() or path.suffix.lower() in IMAGE_SUFFIXES)


def _compare(train: Iterable[str], test: Iterable[str]) -> list[str]:
    faults = [
        f"{there}/{name}: missing, while {here}/{name} exists; both splits need the same class folders"
        for here, there, names in (("train", "test", set(train) - set(test)), ("test", "train", set(test) - set(train)))
        for name in sorted(names)
    ]
    if len(set(train) | set(test)) < 2:
        faults.append("train: fewer than two class folders; a classifier needs at least two classes")
    return faults


def _unread(root: Path) -> list[str]:
    """Warnings about folders and images that stand where nothing is read."""
    warnings = [f"{name}/ is not read: only train/ and test/ are" for name in _folders(root) if name not in SPLITS]
    for split in (name for name in SPLITS if (root / name).is_dir()):
        stray = image_files(root / split)
        if stray:
            warnings.append(f"{len(stray):,} images directly in {split}/ are in no class folder and are not used")
        nested = [f"{split}/{name}" for name in _folders(root / split) if _folders(root / split / name)]
        if nested:
            warnings.append(f"folders inside class folders are not read, first in {nested[0]}")
        warnings += _other_files(root, split)
    return warnings


def _other_files(root: Path, split: str) -> list[str]:
    """Count the images in class folders that are in a format which is not read."""
    suffixes: Counter[str] = Counter()
    for name in _folders(root / split):
        suffixes += _other_suffixes(root / split / name)
    if not suffixes:
        return []
    count = sum(suffixes.values())
    left_out = f"{count:,} images in {split}/ are" if count > 1 else f"1 image in {split}/ is"
    return [f"{left_out} left out: {_in_words(suffixes)}; save them as one of {_suffixes()}"]


def _other_suffixes(folder: Path) -> Counter[str]:
    with os.scandir(folder) as entries:
        found = (Path(entry.name).suffix.lower() for entry in entries if not entry.name.startswith("."))
        return Counter(suffix for suffix in found if suffix in OTHER_IMAGE_SUFFIXES)


def _in_words(suffixes: Counter[str]) -> str:
    return ", ".join(f"{count:,} with {suffix}" for suffix, count in suffixes.most_common(5))
