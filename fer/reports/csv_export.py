"""A report as CSV for other programs: one line for each cell and metric, and for each published number."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from fer.files.csv_files import CsvWriter
from fer.reports.published import Series
from fer.reports.significance import Comparison
from fer.reports.table import Table

COLUMNS = ("metric", "n", "mean", "sd", "seeds", "failed", "incomplete", "published", "source")
_COMPARED = ("difference", "ci_low", "ci_high", "p", "pairs", "remark")


def long_form(
    table: Table, metrics: Sequence[str], published: Sequence[Series], comparisons: Sequence[Comparison]
) -> str:
    """Keys of rows and columns, then numbers in percent; differences in percentage points where there is a baseline."""
    header = [*table.row_keys, *table.column_keys, *COLUMNS, *(_COMPARED if comparisons else ())]
    stream = io.StringIO()
    writer = CsvWriter(stream)
    writer.write(header)
    for line in (*_own(table, metrics, comparisons), *_published(table, published)):
        writer.write(line.get(key, "") for key in header)
    return stream.getvalue()


def _own(table: Table, metrics: Sequence[str], comparisons: Sequence[Comparison]) -> Iterator[dict[str, Any]]:
    compared = {(comparison.row, comparison.column, comparison.metric): comparison.paired for comparison in comparisons}
    for (row, column), cell in table.cells.items():
        for metric in metrics:
            n, mean, sd = cell.spread(metric) or (0, None, None)
            line = {
                **table.settings(row, column),
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
            yield line


def _published(table: Table, published: Sequence[Series]) -> Iterator[dict[str, Any]]:
    for series in published:
        for column, value in series.values.items():
            place = dict(zip(table.column_keys, column, strict=True)) | series.row
            shown = {key: place.get(key) for key in (*table.row_keys, *table.column_keys)}
            yield {**shown, "metric": "test/acc", "published": value, "source": series.source.source}
