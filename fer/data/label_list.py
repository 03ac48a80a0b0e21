"""The label list of RAF-DB and of the published noise files: one line per image, ``train_00001.jpg 5``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fer.data.table import IntArray
from fer.files.regular import open_regular

_FURTHER_COLUMN = re.compile(r"\.(jpe?g|png|bmp|webp|gif|tiff?|p[gp]m)\s+\S", re.IGNORECASE)
"""Pattern of a name with a further column between the file and the label."""
_MOST_BYTES = 1 << 28
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")  # int() refuses more than 4,300 digits


class Entry(NamedTuple):
    """Line of a label list."""

    line: int
    name: str
    label: int
    """0..K-1, or -1 where the line's label is missing or faulty."""


def read_label_list(
    path: Path, class_names: Sequence[str], shown: str | None = None, *, first_label: int = 1
) -> tuple[list[Entry], list[str]]:
    """Read entries in file order, and every fault with its line number; of a file that is no text one fault, no entry.

    Labels count from ``first_label`` in the file and from 0 in the entries. A byte order mark, Windows line ends,
    surrounding blanks and blank lines are accepted; a name may hold blanks, since the label is what follows the last
    one. Faults call the file ``shown``, by default its name.
    """
    shown = shown or path.name
    try:
        with open_regular(path) as stream:
            content = stream.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig") if len(content) <= _MOST_BYTES else "\0"
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        return [], [f"{shown}: cannot be read ({error.strerror}); check {path}"]
    if "\0" in text:  # some UTF-16 is also UTF-8
        return [], [f"{shown}: not UTF-8 text; save it as plain text in UTF-8"]
    entries: list[Entry] = []
    faults: list[str] = []
    first_line: dict[str, int] = {}
    # Not str.splitlines, which also splits at characters that may stand in a file name.
    for number, raw in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        where = f"{shown}, line {number}"
        columns = raw.strip().rsplit(maxsplit=1)
        if not columns:
            continue
        name, label = columns[0], -1
        if _FURTHER_COLUMN.search(name):
            count = len(raw.split())
            faults.append(
                f"{where}: {count} columns, where two are expected; write the file name, a blank and the label"
            )
            continue
        if len(columns) == 1:
            faults.append(f"{where}: '{name}' is one column; write the file name, a blank and the label")
            if _INTEGER.fullmatch(name):
                continue  # the name is missing, not the label
        else:
            label = _label(columns[1], len(class_names), first_label)
            if label < 0:
                names = ", ".join(f"{number} {name}" for number, name in enumerate(class_names, start=first_label))
                last = first_label + len(class_names) - 1
                faults.append(
                    f"{where}: label '{columns[1]}' of {name} is not one of {first_label}..{last}; labels count from "
                    f"{first_label} ({names})"
                )
        if name in first_line:
            faults.append(f"{where}: {name} was already listed in line {first_line[name]}; remove one of the two lines")
            continue
        first_line[name] = number
        entries.append(Entry(number, name, label))
    return entries, faults


def _label(text: str, num_classes: int, first_label: int) -> int:
    if not _INTEGER.fullmatch(text):
        return -1
    label = int(text) - first_label
    return label if 0 <= label < num_classes else -1


def write_label_list(path: Path, names: Sequence[str], labels: IntArray) -> None:
    """Write labels 0..K-1 as a list that counts from 1.

    Raises:
        FileExistsError: ``path`` exists already; nothing is overwritten.
    """
    with path.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        stream.writelines(f"{name} {label + 1}\n" for name, label in zip(names, labels.tolist(), strict=True))
