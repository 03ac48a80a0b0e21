"""A report as CSV for other programs: one line for each cell and metric, and for each published number."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fer.files.csv_files import CsvWriter
from fer.files.visible_text import tell_apart
from fer.reports.published import Series
from fer.reports.significance import Comparison
from fer.reports.table import Table

COLUMNS = ("metric", "n", "mean", "sd", "seeds", "failed", "incomplete", "published", "source")
_Line = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Values of the keys of rows and columns, and numbers by the names of their columns."""
_COMPARED = ("difference", "ci_low", "ci_high", "p", "pairs", "remark")


def long_form(
    table: Table, metrics: Sequence[str], published: Sequence[Series], comparisons: Sequence[Comparison]
) -> str:
    """Keys of rows and columns, then numbers in percent; differences in percentage points where there is a baseline."""
    keys, numbers = [*table.row_keys, *table.column_keys], [*COLUMNS, *(_COMPARED if comparisons else ())]
    stream = io.StringIO()
    writer = CsvWriter(stream)
    writer.write([*tell_apart([*numbers, *keys])[len(numbers) :], *numbers])
    for settings, line in (*_own(table, metrics, comparisons), *_published(table, published)):
        writer.write([*(settings.get(key, "") for key in keys), *(line.get(name, "") for name in numbers)])
    return stream.getvalue()


def _own(table: Table, metrics: Sequence[str], comparisons: Sequence[Comparison]) -> Iterator[_Line]:
    compared = {(comparison.row, comparison.column, comparison.metric): comparison.paired for comparison in comparisons}
    for (row, column), cell in table.cells.items():
        for metric in metrics:
            n, mean, sd = cell.spread(metric) or (0, None, None)
            line: dict[str, Any] = {
                "metric": metric,
                "n": n,
                "mean": mean,
                "sd": sd,
                "seeds": " ".join(map(str, cell.by_seed(metric))),
                "failed": cell.count("failed"),
                "incomplete": cell.count("incomplete"),
            }
            if found := compared.get((row, column, metric)):
                low, high = found.interval or (None, None)
                line |= zip(_COMPARED, (found.mean, low, high, found.p, found.n, found.remark), strict=True)
            yield table.settings(row, column), line


def _published(table: Table, published: Sequence[Series]) -> Iterator[_Line]:
    for series in published:
        for column, value in series.values.items():
            place = dict(zip(table.column_keys, column, strict=True)) | series.row
            shown = {key: place.get(key) for key in (*table.row_keys, *table.column_keys)}
            yield shown, {"metric": "test/acc", "published": value, "source": series.source.source}
