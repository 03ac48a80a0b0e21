"""Reader of plain class folders, ``train/<class>/*`` and ``test/<class>/*``: the way to bring one's own data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fer.data.index import IMAGE_SUFFIXES, DatasetError, SampleTable, image_files

SPLITS = ("train", "test")


def read(root: str | Path) -> SampleTable:
    """The sample table of a tree of class folders, checked.

    The classes are the folder names in sorted order, at least two and the same in both splits. Files without an image
    suffix, hidden files and folders, and folders inside a class folder are not read. The data set's names for its
    files are their paths below ``root`` (``train/happy/001.jpg``).

    Raises:
        DatasetError: with every fault of the tree.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DatasetError(root, [f"{root}: no such folder; set data.root to the folder that holds train and test"])
    faults: list[str] = []
    classes: dict[str, list[str]] = {}
    for split in SPLITS:
        if (root / split).is_dir():
            classes[split] = _folders(root / split)
        else:
            faults.append(f"{split}: missing; make the folder {split}/ with one folder of images per class")
    if len(classes) == len(SPLITS):
        faults += _compare(classes["train"], classes["test"])

    paths: list[Path] = []
    labels: list[int] = []
    is_train: list[bool] = []
    class_names = sorted({name for names in classes.values() for name in names})
    for split, names in classes.items():
        for name in names:
            folder = Path(split, name)
            try:
                files = image_files(root / folder)
            except OSError as error:
                faults.append(f"{folder}: cannot be read ({error.strerror}); mend it or remove it")
                continue
            if not files:
                faults.append(f"{folder}: no image; put images of this class there ({_suffixes()}) or remove it")
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
        warnings=() if faults else tuple(_unread(root)),
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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also of a link that leads nowhere and is no image's: reading it as a class folder tells what is wrong."""
    if not entry.is_symlink():
        return entry.is_dir()
    path = Path(entry)
    return path.is_dir() or not (path.exists() or path.suffix.lower() in IMAGE_SUFFIXES)


def _compare(train: list[str], test: list[str]) -> list[str]:
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
    for split in SPLITS:
        stray = image_files(root / split)
        if stray:
            warnings.append(f"{len(stray):,} images directly in {split}/ are in no class folder and are not used")
        nested = [f"{split}/{name}" for name in _folders(root / split) if _folders(root / split / name)]
        if nested:
            warnings.append(f"folders inside class folders are not read, first in {nested[0]}")
    return warnings
