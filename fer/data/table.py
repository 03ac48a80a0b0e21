"""The sample table, which every reader builds from a data set's files, and the error that lists all their faults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer.errors import UserError

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MAX_FAULTS_SHOWN = 20
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm", ".ppm",
})  # fmt: skip


class DatasetError(UserError):
    """A data set that cannot be used, with every fault found in it.

    Each fault names the file, the line where there is one, and what to do. ``partial`` is what a reader could read all
    the same, so that faults of the noise list and of the images come in the same report.
    """

    def __init__(self, root: str | Path, faults: Sequence[str], partial: SampleTable | None = None) -> None:
        self.root = Path(root)
        self.faults = tuple(faults)
        self.partial = partial
        super().__init__(self.report(MAX_FAULTS_SHOWN))

    def report(self, most: int | None = None) -> str:
        """The faults in lines, at most so many; the message has ``MAX_FAULTS_SHOWN``."""
        shown = [f"  - {fault}" for fault in self.faults[:most]]
        hidden = len(self.faults) - len(shown)
        if hidden:
            shown.append(f"  ... and {hidden} more; fer-data check lists them all")
        noun = "fault" if len(self.faults) == 1 else "faults"
        return "\n".join([f"{len(self.faults)} {noun} in {self.root}:", *shown])

    def __reduce__(self) -> tuple[type[DatasetError], tuple[Path, tuple[str, ...]]]:
        """Errors of worker processes travel by pickle, which would otherwise call ``DatasetError(message)``."""
        return type(self), (self.root, self.faults)


@dataclass(frozen=True, eq=False)
class SampleTable:
    """N labeled image files, train and test together.

    That the files are there and hold images is not the reader's to find out: it is checked for every data set alike.
    ``labels`` is int64 (N,) in 0..K-1 and ``is_train`` is bool (N,); both are made read-only. ``names`` holds the
    plain names by which the data set's list calls the files (``train_00001.jpg``); left empty, the paths relative to
    ``root`` serve. ``places`` says for faults of the images where that list names them (``labels.csv, line 5``).
    ``warnings`` are findings that do not forbid the use of the data. A ``partial`` table comes with a ``DatasetError``
    only: its label is -1 where the list has no usable one, and it may have fewer than two classes.

    ``votes``, float64 (N, K), holds what share of several annotators chose each class; rows sum to 1. ``other_labels``
    holds further labels of the same samples by the name of their source, int64 (N,), -1 where there is none.

    Raises:
        ValueError: lengths differ, a label lies outside 0..K-1, or there are fewer than two classes.
    """

    name: str
    root: Path
    paths: tuple[Path, ...]
    labels: IntArray
    is_train: BoolArray
    class_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    partial: bool = False
    votes: NDArray[np.float64] | None = None
    other_labels: Mapping[str, IntArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = np.array(self.labels, dtype=np.int64)
        is_train = np.array(self.is_train, dtype=np.bool_)
        labels.flags.writeable = is_train.flags.writeable = False
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "is_train", is_train)
        if self.num_classes < 2 and not self.partial:
            raise ValueError(f"a sample table needs at least two classes, got {list(self.class_names)}")
        count = len(self.paths)
        if (
            labels.shape != (count,)
            or is_train.shape != (count,)
            or not {len(self.names), len(self.places)} <= {0, count}
        ):
            raise ValueError(
                f"a sample table needs one label, split, name and place per file: {count} files, labels "
                f"{labels.shape}, splits {is_train.shape}, {len(self.names)} names, {len(self.places)} places"
            )
        if self.votes is not None and self.votes.shape != (count, self.num_classes):
            raise ValueError(f"votes have the shape {self.votes.shape}; it must be {(count, self.num_classes)}")
        if any(other.shape != (count,) for other in self.other_labels.values()):
            raise ValueError(f"other labels need one value per file, {count}")
        if count and not (labels.min() >= (-1 if self.partial else 0) and labels.max() < self.num_classes):
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}, found {labels.min()}..{labels.max()}")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def train(self) -> IntArray:
        """Rows of the training split, ascending, (N_train,)."""
        return np.flatnonzero(self.is_train)

    @cached_property
    def test(self) -> IntArray:
        """Rows of the test split, ascending, (N_test,)."""
        return np.flatnonzero(~self.is_train)

    @cached_property
    def file_names(self) -> tuple[str, ...]:
        """The N names by which the data set's own list calls the files."""
        return self.names or tuple(path.relative_to(self.root).as_posix() for path in self.paths)

    def described(self, row: int) -> str:
        """The file of a row for a message: its path below ``root``, and the place that names it."""
        path = str(self.shown(self.paths[row]))
        return f"{path} ({self.places[row]})" if self.places else path

    def shown(self, path: Path) -> Path:
        """A path for a message: below ``root`` where it lies there."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else path

    def class_counts(self, rows: IntArray) -> IntArray:
        """Samples per class (K,) among ``rows``, such as ``table.train``."""
        return np.bincount(self.labels[rows], minlength=self.num_classes).astype(np.int64, copy=False)


def image_files(folder: Path) -> list[str]:
    """Names of the image files that lie directly in ``folder``, sorted; links are named wherever they lead.

    Files without an image suffix and hidden files are left out.
    """
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122, twice as fast
            and not entry.is_dir(follow_symlinks=False)
        )
