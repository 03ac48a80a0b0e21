"""The label list of RAF-DB and of the published noise files: one line per image, ``train_00001.jpg 5``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fer.data.index import IntArray

_INTEGER = re.compile(r"[+-]?[0-9]+")


class Entry(NamedTuple):
    """One line of a label list."""

    line: int
    name: str
    label: int
    """0..K-1, or -1 where the line's label is faulty."""


def read_label_list(path: Path, class_names: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """Entries in file order, and every fault with its line number.

    Labels count from 1 in the file and from 0 in the entries. A byte order mark, Windows line ends, surrounding
    blanks and blank lines are accepted; a name may hold blanks, since the label is what follows the last one.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return [], [f"{path.name}: not UTF-8 text; save it as plain text in UTF-8"]
    except OSError as error:
        return [], [f"{path.name}: cannot be read ({error.strerror}); check {path}"]
    entries: list[Entry] = []
    faults: list[str] = []
    first_line: dict[str, int] = {}
    # Not str.splitlines, which also splits at characters that may stand in a file name.
    for number, raw in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        where = f"{path.name}, line {number}"
        columns = raw.strip().rsplit(maxsplit=1)
        if not columns:
            continue
        if len(columns) == 1:
            faults.append(f"{where}: '{columns[0]}' is one column; write the file name, a blank and the label")
            continue
        name, label_text = columns
        label = _label(label_text, len(class_names))
        if label < 0:
            names = ", ".join(f"{number} {name}" for number, name in enumerate(class_names, start=1))
            faults.append(
                f"{where}: label '{label_text}' of {name} is not one of 1..{len(class_names)}; labels count from 1 "
                f"({names})"
            )
        if name in first_line:
            faults.append(f"{where}: {name} was already listed in line {first_line[name]}; remove one of the two lines")
            continue
        first_line[name] = number
        entries.append(Entry(number, name, label))
    return entries, faults


def _label(text: str, num_classes: int) -> int:
    if not _INTEGER.fullmatch(text):
        return -1
    label = int(text) - 1
    return label if 0 <= label < num_classes else -1


def write_label_list(path: Path, names: Sequence[str], labels: IntArray) -> None:
    """Write labels 0..K-1 as a list that counts from 1.

    Raises:
        FileExistsError: ``path`` exists already; nothing is overwritten.
    """
    with path.open("x", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{name} {label + 1}\n" for name, label in zip(names, labels.tolist(), strict=True))
