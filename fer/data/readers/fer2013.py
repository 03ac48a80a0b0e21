"""FER2013's own files: ``fer2013.csv`` with one label and 2,304 gray values per line, unpacked once into PNG files.

Source: Goodfellow et al., "Challenges in representation learning", Neural Networks 64, 2015.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer.data.table import DatasetError, IntArray, SampleTable
from fer.files.atomic import making_folder
from fer.files.csv_files import CsvReader, write_table
from fer.files.regular import open_regular_text

log = logging.getLogger(__name__)

PIXELS_FILE = "fer2013.csv"
CLASS_NAMES = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral")
"""Classes in the order of FER2013's labels 0 to 6."""
USAGES = ("Training", "PublicTest", "PrivateTest")
ROWS = 35_887
"""Lines of the complete ``fer2013.csv`` without its header."""
TestSplit = Literal["PrivateTest", "PublicTest"]

_EDGE = 48
_COLUMNS = ("emotion", "pixels", "usage")
_LABELS = "labels.csv"
_MOST_FAULTS = 100
_SHOWN = 20


@dataclass(frozen=True)
class Rows:
    """Lines of ``fer2013.csv`` in order, M of them."""

    images: Path
    """Folder of the unpacked pictures, ``00000.png`` for the first line."""
    labels: IntArray
    """FER2013's label 0..6 of every row, (M,)."""
    usages: tuple[str, ...]

    def path(self, row: int) -> Path:
        """Name the picture of a row, counted from 0."""
        return self.images / f"{row:05d}.png"


def read(
    root: str | Path,
    *,
    cache: str | Path,
    test_split: TestSplit = "PrivateTest",
    train_on_other_split: bool = False,
) -> SampleTable:
    """Read FER2013 with its own labels, seven classes.

    Args:
        root: folder that holds ``fer2013.csv`` (columns ``emotion,pixels,Usage``).
        cache: folder in which the pictures are unpacked.
        test_split: ``PrivateTest``, or ``PublicTest``.
        train_on_other_split: add the split that is not tested to the training set.

    Raises:
        DatasetError: with every fault of the file.
    """
    root = Path(root).expanduser()
    if not (root / PIXELS_FILE).is_file():
        raise DatasetError(
            root,
            [
                f"{PIXELS_FILE}: not in {root}; set data.root to the folder that holds it (class folders of pictures "
                "are read by data=folder)"
            ],
        )
    rows = unpack(root / PIXELS_FILE, Path(cache))
    in_train, in_test = split_of(np.array(rows.usages), test_split, train_on_other_split)
    used = np.concatenate([np.flatnonzero(in_train), np.flatnonzero(in_test)])
    count = len(rows.labels)
    warnings = [] if count == ROWS else [f"{count:,} rows where the complete {PIXELS_FILE} has {ROWS:,}"]
    return SampleTable(
        name="fer2013",
        root=root,
        paths=tuple(map(rows.path, used.tolist())),
        labels=rows.labels[used],
        is_train=in_train[used],
        class_names=CLASS_NAMES,
        names=tuple(f"{row:05d}.png" for row in used.tolist()),
        places=tuple(f"{PIXELS_FILE}, line {row + 2}" for row in used.tolist()),
        warnings=tuple(warnings),
    )


def split_of(
    usages: NDArray[np.str_], test_split: TestSplit, train_on_other_split: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell of every row (M,) whether it is trained on and whether it is tested."""
    in_test = usages == test_split
    return (~in_test if train_on_other_split else usages == "Training"), in_test


def unpack(path: Path, cache: Path) -> Rows:
    """Write the pictures of ``fer2013.csv`` to a folder of ``cache``, unless they are there already.

    Args:
        path: the file; another place, size or time of change makes another folder.
        cache: where the folder is made, whole or not at all.

    Raises:
        DatasetError: with the first hundred faults of the file.
    """
    state = path.stat()
    key = f"{path.resolve()}\n{state.st_size}\n{state.st_mtime_ns}"
    folder = cache.expanduser() / f"fer2013-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not (folder / _LABELS).is_file():
        cache.expanduser().mkdir(parents=True, exist_ok=True)
        log.info("unpacking %s into %s", path, folder)
        try:
            with making_folder(folder, on_disk=False) as unfinished:
                _unpack(path, unfinished)
        except OSError:
            if not (folder / _LABELS).is_file():  # no other process was faster
                raise
    with open_regular_text(folder / _LABELS) as stream:
        kept = [*csv.reader(stream)][1:]
    return Rows(folder, np.array([int(label) for label, _ in kept], np.int64), tuple(usage for _, usage in kept))


def _unpack(path: Path, folder: Path) -> None:
    kept: list[tuple[int, str]] = []
    faults: list[str] = []
    try:
        with open_regular_text(path) as stream:
            reader = CsvReader(stream)
            order = _columns(next(reader, []))
            for number, line in enumerate(reader):
                fault, label, usage, pixels = _parsed(line, order)
                if fault:
                    faults.append(f"{PIXELS_FILE}, line {reader.line_number}: {fault}")
                    if len(faults) == _MOST_FAULTS:
                        break
                elif not faults:
                    Image.fromarray(pixels).save(folder / f"{number:05d}.png", compress_level=1)
                    kept.append((label, usage))
    except (csv.Error, UnicodeDecodeError) as error:
        faults.append(f"{PIXELS_FILE}: no CSV file of {', '.join(_COLUMNS)} ({error}); take the published one")
    except _WrongHeader as error:
        faults.append(str(error))
    if not kept and not faults:
        faults.append(f"{PIXELS_FILE}: no line of data; take the published file")
    if faults:
        raise DatasetError(path.parent, faults)
    write_table(folder / _LABELS, ["label", "usage"], kept)


class _WrongHeader(Exception):
    """Columns other than the three of the published file."""


def _columns(header: list[str]) -> dict[str, int]:
    found = {name.strip().strip("\ufeff").lower(): place for place, name in enumerate(header)}
    if absent := [name for name in _COLUMNS if name not in found]:
        shown = ", ".join(name[:_SHOWN] for name in header[:4])
        raise _WrongHeader(
            f"{PIXELS_FILE}, line 1: the columns are {shown}, without {', '.join(absent)}; take the file of three "
            f"columns, emotion,pixels,Usage"
        )
    return {name: found[name] for name in _COLUMNS}


def _parsed(line: list[str], order: Mapping[str, int]) -> tuple[str | None, int, str, NDArray[np.uint8]]:
    """Read a line: its fault or ``None``, label, usage, and pixels uint8 (48, 48)."""
    nothing = np.zeros((_EDGE, _EDGE), np.uint8)
    if len(line) <= max(order.values()):
        return f"{len(line)} columns; write emotion,pixels,Usage", -1, "", nothing
    emotion, text, usage = (line[order[name]].strip() for name in _COLUMNS)
    if emotion not in {"0", "1", "2", "3", "4", "5", "6"}:
        return f"the emotion is {emotion[:_SHOWN]!r}; it must be 0 to 6", -1, "", nothing
    if usage not in USAGES:
        return f"the usage is {usage[:_SHOWN]!r}; it must be one of {', '.join(USAGES)}", -1, "", nothing
    try:
        values = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        return "the pixels are not whole numbers", -1, "", nothing
    if values.shape != (_EDGE * _EDGE,):
        return f"{values.size:,} pixels; it must be {_EDGE * _EDGE:,}", -1, "", nothing
    if values.min() < 0 or values.max() > 255:
        return "a pixel lies outside 0 to 255", -1, "", nothing
    return None, int(emotion), usage, values.astype(np.uint8).reshape(_EDGE, _EDGE)
