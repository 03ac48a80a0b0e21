"""CSV files that spreadsheets show as text and do not run: what they would take for a formula gets an apostrophe.

A text cell that begins with ``=``, ``+``, ``-``, ``@`` (plain or full width), a tab or a line end, perhaps after
apostrophes, gets one more apostrophe in front; numbers stay as they are. ``read_rows`` takes it off again, so that any
text comes back as it was written.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from fer.files.atomic import replacing_text

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_DEFUSED = re.compile(f"'{_FORMULA.pattern}")
_LONGEST_LINE = 1_000_000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class CsvWriter:
    """A writer of rows to an open text file (opened with ``newline=""``)."""

    def __init__(self, stream: IO[str]) -> None:
        self._csv = csv.writer(stream, lineterminator="\n")
        self._quoting_all = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(self, row: Iterable[Any]) -> None:
        """Write one row; its text cells are defused."""
        cells = [_defused(cell) for cell in row]
        # Python's csv writes a carriage return without quotes, but reads it as the end of a row.
        has_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (self._quoting_all if has_return else self._csv).writerow(cells)

    def write_all(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write several rows."""
        for row in rows:
            self.write(row)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, whole or not at all."""
    with replacing_text(path) as stream:
        writer = CsvWriter(stream)
        writer.write(header)
        writer.write_all(rows)


class CsvReader(Iterator[list[str]]):
    """The rows of an open text file as ``CsvWriter`` was given them.

    Raises:
        csv.Error: from iterating, a row is no CSV, or a line is longer than a million characters.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._csv = csv.reader(_lines(stream))

    def __next__(self) -> list[str]:
        return [cell[1:] if cell[:1] == "'" and _DEFUSED.match(cell) else cell for cell in next(self._csv)]

    @property
    def line_number(self) -> int:
        """The line of the file that was read last, from 1 on."""
        return self._csv.line_num


def _lines(stream: IO[str]) -> Iterator[str]:
    """Read line by line; a file without line ends does not fill the memory."""
    while line := stream.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise csv.Error(f"a line is longer than the allowed {_LONGEST_LINE:,} characters")
        yield line


def _defused(cell: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would run."""
    if cell is None or isinstance(cell, int | float):
        return cell
    text = str(cell)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
