"""The tables of a finished run, ``predictions.csv`` and ``noise.csv``, read back."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fer.files.class_names import class_names_fault
from fer.files.csv_files import CsvReader
from fer.files.regular import open_regular_text
from fer.files.visible_text import visible_name
from fer.runs.run_folder import RunFolder, RunFolderError

_COLUMNS = ("split", "file", "clean_label", "given_label", "predicted", "confidence")

_SPLITS = ("test", "train")


@dataclass(frozen=True, eq=False)
class SplitTable:
    """The n samples of a split, in the order of the data set's list; labels are positions in ``class_names``."""

    class_names: tuple[str, ...]
    file: tuple[str, ...]
    clean: NDArray[np.int64]
    """True labels, (n,)."""
    given: NDArray[np.int64]
    """Given labels, (n,); of the test split the true ones, but in a fold."""
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    """Probability of the predicted class, (n,)."""
    probabilities: NDArray[np.float64]
    """Probabilities of all classes, (n, K), rounded to six digits."""

    def __len__(self) -> int:
        return len(self.file)

    @property
    def has_changed_labels(self) -> bool:
        """True if labels were changed on purpose, so that the wrong ones are known."""
        return bool((self.given != self.clean).any())


def read_class_names(folder: RunFolder) -> tuple[str, ...]:
    """Read the class names of a finished run, in the order of its logits.

    Raises:
        RunFolderError: its predictions are missing or cannot be read.
    """
    header = next(_lines(folder.predictions_file), [])
    names = tuple(name.removeprefix("p_") for name in header if name.startswith("p_"))
    if fault := class_names_fault(names):
        raise RunFolderError(f"{folder.predictions_file}: {fault}; restore it, or train again")
    return names


class LabeledSample(NamedTuple):
    """Line of ``noise.csv``; labels are positions among the class names."""

    file: str
    clean: int
    given: int
    is_trained: bool
    """False for a sample of the fold that a run of a cross-validation is tested on."""


def read_labels(folder: RunFolder) -> list[LabeledSample]:
    """Read the labels of the samples of a run's training split, in the order of the table.

    Raises:
        RunFolderError: a file is missing or cannot be read.
    """
    labels = {name: label for label, name in enumerate(read_class_names(folder))}
    lines = _lines(folder.noise_file)
    header = next(lines, [])
    misfit = f"{folder.noise_file} does not fit {folder.predictions_file}"
    if header[:3] != ["file", "clean_label", "given_label"]:
        raise RunFolderError(f"{misfit}: its columns are {', '.join(map(visible_name, header))[:100]}; restore both")
    found = []
    for number, row in enumerate(lines, start=2):
        if len(row) != len(header) or not {*row[1:3]} <= labels.keys():
            raise RunFolderError(f"{misfit}: line {number} gives no class; restore both")
        found.append(LabeledSample(row[0], labels[row[1]], labels[row[2]], row[3:] != ["test"]))
    return found


def _lines(path: Path) -> Iterator[list[str]]:
    try:
        with open_regular_text(path) as stream:
            yield from CsvReader(stream)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def read_predictions(folder: RunFolder, splits: Sequence[str] = _SPLITS) -> dict[str, SplitTable]:
    """Read the predictions of ``splits``, some of ``test`` and ``train``; lines of another one are passed over.

    Raises:
        RunFolderError: the file is missing, or a line of it is not as this project writes it.
    """
    names = read_class_names(folder)
    path = folder.predictions_file
    samples = {split: _Samples() for split in splits}
    try:
        with open_regular_text(path) as stream:
            reader = CsvReader(stream)
            try:
                _read_samples(reader, names, samples)
            except (ValueError, csv.Error) as error:
                message = f"{path}, line {reader.line_number}: {error}; restore it, or train again"
                raise RunFolderError(message) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    for split, found in samples.items():
        if not found.files:
            raise RunFolderError(f"{path} has no line of the {split} split; restore it, or train again")
    return {split: found.table(names) for split, found in samples.items()}


class _Samples:
    """The lines of one split in flat arrays: as Python objects they would take ten times the memory."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.labels = array("q")
        """Clean, given and predicted label of each sample."""
        self.shares = array("d")
        """Confidence of each sample, and its probability of each class."""

    def table(self, names: tuple[str, ...]) -> SplitTable:
        clean, given, predicted = np.array(self.labels, dtype=np.int64).reshape(-1, 3).T.copy()
        shares = np.array(self.shares).reshape(-1, 1 + len(names))
        return SplitTable(names, tuple(self.files), clean, given, predicted, shares[:, 0].copy(), shares[:, 1:].copy())


def _read_samples(lines: Iterator[list[str]], names: Sequence[str], samples: Mapping[str, _Samples]) -> None:
    """Add every line to the samples of its split; a ``ValueError`` says what is wrong with the newest line."""
    header = next(lines)
    absent = [name for name in _COLUMNS if name not in header]
    if absent:
        raise ValueError(f"there is no column {' or '.join(absent)}")
    columns = [header.index(name) for name in _COLUMNS]
    first = header.index(f"p_{names[0]}")
    last = first + len(names)
    if header[first:last] != [f"p_{name}" for name in names]:
        raise ValueError("the columns of probabilities do not stand side by side")
    labels = {name: label for label, name in enumerate(names)}
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"{len(line)} fields where the first line has {len(header)}")
        split, file, *given, confidence = (line[column] for column in columns)
        if split not in _SPLITS:
            raise ValueError(f"the split is {split!r}, which is neither test nor train")
        if split not in samples:
            continue
        found = samples[split]
        found.files.append(file)
        found.labels.extend([_label(name, labels) for name in given])
        found.shares.extend([_share(field) for field in (confidence, *line[first:last])])


def _label(name: str, labels: Mapping[str, int]) -> int:
    try:
        return labels[name]
    except KeyError:
        raise ValueError(f"there is no class {name!r}") from None


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"a probability is {text}, which is not in 0..1")
    return value


def read_out_of_fold(folders: Sequence[RunFolder]) -> SplitTable:
    """Join what the runs of a cross-validation predict for their folds: every training sample once.

    Args:
        folders: of all finished folds of one configuration and seed.

    Returns:
        The training split, in the order of the data set's list.

    Raises:
        RunFolderError: a file cannot be read, or the runs divide other samples, or the same ones in another way.
    """
    labels = [read_labels(folder) for folder in folders]
    tested = [read_predictions(folder, ("test",))["test"] for folder in folders]
    first = labels[0]
    for folder, others in zip(folders, labels, strict=True):
        if [sample[:3] for sample in others] != [sample[:3] for sample in first]:
            raise RunFolderError(f"{folder.path} and {folders[0].path} are folds of other samples or labels")
    is_tested = np.array([[not sample.is_trained for sample in fold] for fold in labels])
    if (is_tested.sum(axis=0) != 1).any() or [len(table) for table in tested] != is_tested.sum(axis=1).tolist():
        raise RunFolderError(f"{folders[0].path} and its other folds do not test every training sample once")
    order = np.concatenate([np.flatnonzero(fold) for fold in is_tested]).argsort()

    def joined(name: str) -> Any:
        return np.concatenate([getattr(table, name) for table in tested])[order]

    files = tuple(sample.file for sample in first)
    if tuple(joined("file")) != files or joined("given").tolist() != [sample.given for sample in first]:
        raise RunFolderError(f"{folders[0].path} or another fold: predictions.csv does not fit noise.csv; restore both")
    columns = [joined(name) for name in ("clean", "given", "predicted", "confidence", "probabilities")]
    return SplitTable(tested[0].class_names, files, *columns)
