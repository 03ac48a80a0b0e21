"""Layouts of FERPlus: where its pictures and their votes lie, and how they are joined.

- ``fer2013.csv`` beside ``fer2013new.csv``, joined by row: a number in a name is not a row.
- ``FER2013Train``, ``FER2013Valid`` and ``FER2013Test`` with pictures and a ``label.csv`` each, as microsoft's script
  writes them, with or without a box behind the name.
- ``train/<class>`` and ``test/<class>`` with FER2013's label in the folder's name, beside ``fer2013new.csv``, joined by
  the names of the pictures.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fer.data.readers import fer2013
from fer.data.readers.fer2013 import USAGES
from fer.data.table import DatasetError, IntArray, image_files
from fer.files.csv_files import CsvReader
from fer.files.regular import open_regular_text

VOTES_FILE = "fer2013new.csv"
CLASS_NAMES = ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt")
"""Classes in the order of the vote columns; two more columns count unknown and not a face."""
COLUMNS = 10
FOLDERS = {"FER2013Train": "Training", "FER2013Valid": "PublicTest", "FER2013Test": "PrivateTest"}
WITHOUT_FACE = 176
"""Rows of the complete ``fer2013new.csv`` without a name: there is no face in them."""

_LIST = "label.csv"
_MOST_FAULTS = 100
_SHOWN = 40
_FOLDER_NAMES = {"angry": "Anger", "happy": "Happiness", "sad": "Sadness"}


@dataclass
class Votes:
    """Pictures with their votes, M of them, and what is wrong with the lists."""

    paths: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    usages: list[str] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    own_labels: list[int] = field(default_factory=list)
    """FER2013's label in the order of ``CLASS_NAMES``, -1 where it is not known."""
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, path: Path, name: str, place: str, usage: str, counts: list[int], own_label: int) -> None:
        self.paths.append(path)
        self.names.append(name)
        self.places.append(place)
        self.usages.append(usage)
        self.counts.append(counts)
        self.own_labels.append(own_label)


def read_layout(root: Path, cache: Path) -> Votes:
    """Read the pictures and votes of a folder in one of the three layouts.

    Raises:
        DatasetError: it has none of them; faults of the lists are in what is returned.
    """
    has_votes, has_pixels = ((root / name).is_file() for name in (VOTES_FILE, fer2013.PIXELS_FILE))
    if any((root / name / _LIST).is_file() for name in FOLDERS):
        return _from_lists(root, cache)
    if has_votes and has_pixels:
        return _from_csv(root, cache)
    if has_votes and (root / "train").is_dir():
        return _from_class_folders(root)
    there = ", ".join(sorted(path.name for path in root.iterdir())[:6]) if root.is_dir() else "no such folder"
    raise DatasetError(
        root,
        [
            f"no FERPlus here ({there or 'an empty folder'}); set data.root to a folder with {fer2013.PIXELS_FILE} and "
            f"{VOTES_FILE}, with {', '.join(FOLDERS)} and their {_LIST}, or with train/, test/ and {VOTES_FILE}"
        ],
    )


def _from_csv(root: Path, cache: Path) -> Votes:
    """Join both CSV files by row."""
    found = Votes()
    votes = _read_votes(root / VOTES_FILE, found)
    if found.faults:
        return found
    pixels = fer2013.unpack(root / fer2013.PIXELS_FILE, cache)
    if len(votes) != len(pixels.labels):
        found.faults.append(
            f"{VOTES_FILE} has {len(votes):,} rows and {fer2013.PIXELS_FILE} {len(pixels.labels):,}; the rows belong "
            "together one by one: take the published files"
        )
        return found
    twice = {name for name, count in Counter(name for _, name, _ in votes).items() if count > 1}
    own = _own_labels(pixels.labels)
    for row, (usage, name, counts) in enumerate(votes):
        place = f"{VOTES_FILE}, line {row + 2}"
        if usage != pixels.usages[row]:
            found.faults.append(
                f"{place}: the usage is {usage}, in {fer2013.PIXELS_FILE} {pixels.usages[row]}; take both files as "
                "published"
            )
        elif name:
            unique = name if name not in twice else f"{name.removesuffix('.png')}-row{row}.png"
            found.add(pixels.path(row), unique, place, usage, counts, int(own[row]))
    _count_rows_without_face(votes, found)
    return found


def _from_lists(root: Path, cache: Path) -> Votes:
    """Read the pictures and the ``label.csv`` of every folder."""
    found = Votes()
    own = _own_labels_by_name(root, cache, found)
    for folder, usage in FOLDERS.items():
        shown = f"{folder}/{_LIST}"
        if not (root / folder / _LIST).is_file():
            found.faults.append(f"{shown}: missing; write all three folders with the script of FERPlus")
            continue
        lines = _lines(root / folder / _LIST, shown, found)
        names = Counter(line[0] for _, line in lines)
        for number, line in lines:
            place = f"{shown}, line {number}"
            # Older scripts write a box behind the name.
            numbers = line[2:] if len(line) == COLUMNS + 2 else line[1:]
            counts = _counts(numbers, place, found)
            if names[line[0]] == 1 and counts is not None:
                found.add(root / folder / line[0], f"{folder}/{line[0]}", place, usage, counts, own.get(line[0], -1))
        if several := sorted(name for name, count in names.items() if count > 1):
            found.warnings.append(
                f"{shown}: {len(several)} names have two lines and one picture, first {several[0]}; they are left out"
            )
    return found


def _from_class_folders(root: Path) -> Votes:
    """Join the pictures of class folders with their votes by name."""
    found = Votes()
    votes = _read_votes(root / VOTES_FILE, found)
    lines: dict[str, list[int]] = {}
    for row, (_, name, _) in enumerate(votes):
        lines.setdefault(name, []).append(row)
    unknown: list[str] = []
    several = 0
    for split in ("train", "test"):
        for folder in sorted(path for path in (root / split).glob("*") if path.is_dir()):
            name_of_class = _FOLDER_NAMES.get(folder.name.lower(), folder.name.capitalize())
            if name_of_class not in fer2013.CLASS_NAMES:
                found.faults.append(
                    f"{split}/{folder.name}: no class of FER2013; the folders are {', '.join(fer2013.CLASS_NAMES)}"
                )
                continue
            own = CLASS_NAMES.index(name_of_class)
            for name in image_files(folder):
                rows = lines.get(name, [])
                if len(rows) == 1:
                    usage, _, counts = votes[rows[0]]
                    found.add(folder / name, f"{split}/{folder.name}/{name}", f"{VOTES_FILE}, line {rows[0] + 2}",
                              usage, counts, own)  # fmt: skip
                elif rows:
                    several += 1
                else:
                    unknown.append(f"{split}/{folder.name}/{name}")
    if unknown and not found.paths:
        found.faults.append(
            f"{unknown[0]}: not a name of {VOTES_FILE}, like all other pictures; votes are joined by the names that "
            "the script of FERPlus gives (fer0000000.png)"
        )
    elif unknown:
        found.warnings.append(f"{len(unknown):,} pictures have no line in {VOTES_FILE}, first {unknown[0]}; left out")
    if several:
        found.warnings.append(f"{several} pictures have a name of two lines in {VOTES_FILE}; they are left out")
    return found


def _read_votes(path: Path, found: Votes) -> list[tuple[str, str, list[int]]]:
    """Read usage, name (empty where there is no face) and votes of every row of ``fer2013new.csv``."""
    rows: list[tuple[str, str, list[int]]] = []
    lines = _lines(path, VOTES_FILE, found)
    if lines and lines[0][1][:2] != ["Usage", "Image name"]:
        found.faults.append(
            f"{VOTES_FILE}, line 1: the columns are {', '.join(lines[0][1][:3])[:_SHOWN]}; they must be Usage, Image "
            "name and ten of votes"
        )
        return rows
    for number, line in lines[1:]:
        place = f"{VOTES_FILE}, line {number}"
        counts = _counts(line[2:], place, found)
        if line[0] not in USAGES:
            found.faults.append(f"{place}: the usage is {line[0][:_SHOWN]!r}; it must be one of {', '.join(USAGES)}")
        elif counts is not None:
            rows.append((line[0], line[1].strip(), counts))
    return rows


def _lines(path: Path, shown: str, found: Votes) -> list[tuple[int, list[str]]]:
    lines: list[tuple[int, list[str]]] = []
    try:
        with open_regular_text(path) as stream:
            reader = CsvReader(stream)
            lines += ((reader.line_number, line) for line in reader if line)
    except (csv.Error, UnicodeDecodeError) as error:
        found.faults.append(f"{shown}: no CSV file ({error}); take the published one")
    if not lines and not found.faults:
        found.faults.append(f"{shown}: empty; take the published one")
    return lines


def _counts(texts: Sequence[str], place: str, found: Votes) -> list[int] | None:
    """Read ten votes, or add a fault; of a hundred faults no more are added."""
    if len(texts) == COLUMNS and all(text.strip().isdecimal() and len(text) < 4 for text in texts):
        return [int(text) for text in texts]
    if len(found.faults) < _MOST_FAULTS:
        found.faults.append(f"{place}: {', '.join(texts)[:_SHOWN]!r} are not ten whole numbers, the votes")
    return None


def _count_rows_without_face(votes: Sequence[tuple[str, str, list[int]]], found: Votes) -> None:
    nameless = sum(not name for _, name, _ in votes)
    if len(votes) != fer2013.ROWS or nameless != WITHOUT_FACE:
        found.warnings.append(
            f"{VOTES_FILE} has {len(votes):,} rows, {nameless:,} of them without a face, where the published file has "
            f"{fer2013.ROWS:,} and {WITHOUT_FACE}: scores do not compare with published ones"
        )


def _own_labels(labels: IntArray) -> IntArray:
    """Bring FER2013's labels to the order of ``CLASS_NAMES``."""
    order = np.array([CLASS_NAMES.index(name) for name in fer2013.CLASS_NAMES], np.int64)
    return order[labels]


def _own_labels_by_name(root: Path, cache: Path, found: Votes) -> dict[str, int]:
    """Read FER2013's labels of named pictures, where both CSV files lie beside the folders."""
    if not ((root / VOTES_FILE).is_file() and (root / fer2013.PIXELS_FILE).is_file()):
        return {}
    joined = _from_csv(root, cache)
    found.faults += joined.faults
    return dict(zip(joined.names, joined.own_labels, strict=True))
