"""Persons of a data set's images, from a list, so that no person is on both sides of a split."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from fer.data.table import DatasetError, IntArray, SampleTable
from fer.files.csv_files import CsvReader
from fer.files.regular import open_regular_text

_HEADER = ["file", "person"]
_MOST_FAULTS = 100


def read_persons(path: str | Path, table: SampleTable) -> IntArray:
    """Read who is on every image: rows ``file,person``, with or without this header, in any order.

    Args:
        path: of the list.
        table: of the data set; its ``file_names`` are the files.

    Returns:
        A number for each person, int64 (N,), by row of the table; -1 for test images that the list leaves out.

    Raises:
        DatasetError: with every fault of the list: unknown files, files of two persons, training images without one.
    """
    path = Path(path)
    person_of: dict[str, str] = {}
    known = {*table.file_names}
    faults: list[str] = []
    try:
        with open_regular_text(path) as stream:
            reader = CsvReader(stream)
            for row in reader:
                where = f"{path.name}, line {reader.line_number}"
                if not row or row == _HEADER:
                    continue
                if len(row) != 2 or not row[1].strip():
                    faults.append(f"{where}: {len(row)} columns, where two are expected; write file,person")
                elif row[0] not in known:
                    faults.append(f"{where}: {row[0]} is not an image of {table.root}; remove the line")
                elif person_of.setdefault(row[0], row[1]) != row[1]:
                    faults.append(f"{where}: {row[0]} was already of {person_of[row[0]]}; remove one of the two lines")
                if len(faults) >= _MOST_FAULTS:
                    break
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(path, [f"{path}: cannot be read ({error}); set persons to a list in UTF-8"]) from error
    absent = [name for row in table.train if (name := table.file_names[row]) not in person_of]
    if absent and not faults:
        faults.append(f"{path.name}: no line for {len(absent):,} training images, first {absent[0]}; add them")
    if faults:
        raise DatasetError(path, faults)
    number = {person: at for at, person in enumerate(dict.fromkeys(person_of.values()))}
    return np.array([number[person_of[name]] if name in person_of else -1 for name in table.file_names], dtype=np.int64)
