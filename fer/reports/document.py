"""Report as grids of text and notes, independent of the output format."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fer.files.visible_text import tell_apart
from fer.reports.collect import epochs_by_protocol
from fer.reports.published import Series
from fer.reports.run import Run
from fer.reports.significance import Comparison, Test
from fer.reports.table import Cell, Table, Values, unshown_keys
from fer.reports.wording import labeled, metric_name, spell

ABSENT = "–"

FIRST_NOTE = "Mean ± standard deviation (n - 1) over n seeds, in percent."
_LESS_IS_BETTER = {"test/ece", "memorized"}
_TESTS = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test"}
# Results on different data or by different protocols are not compared.
_APART = ("data", "protocol")


class Entry(NamedTuple):
    """A field of a grid; ``is_best`` marks the best mean of a column."""

    text: str
    is_best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of text; ``alignment`` has an ``l`` or an ``r`` for each column."""

    title: str
    header: list[str]
    lines: list[list[Entry]]
    alignment: str


@dataclass(frozen=True)
class Document:
    """Content of a report, in the order of the fields."""

    grids: list[Grid]
    notes: list[str]
    figures: list[Path]


def results_grid(table: Table, metrics: Sequence[str], published: Sequence[Series]) -> Grid:
    """A line for each row of the table and each published series, a column for each metric and column of the table."""
    columns = [
        (metric, column) for metric in metrics for column in table.columns if _has_content(table, metric, column)
    ]
    best = {place: _best_rows(table, *place) for place in columns}
    lines = []
    for row in table.rows:
        line = [Entry(_shown(value)) for value in row]
        for metric, column in columns:
            cell = table.cells.get((row, column))
            line.append(Entry(cell_text(cell, metric), row in best[metric, column]))
        lines.append(line)
    for number, series in enumerate(published, start=1):
        words = [_shown(series.row.get(key)) for key in table.row_keys]
        values = [series.values.get(column) if metric == "test/acc" else None for metric, column in columns]
        numbers = [ABSENT if value is None else f"{value:.2f}" for value in values]
        lines.append([Entry(text) for text in (f"{words[0]}, published [{number}]", *words[1:], *numbers)])
    named = len(metrics) > 1 or not table.column_keys
    headings = [_heading(table, metric if named else "", column) for metric, column in columns]
    title = f"{', '.join(map(metric_name, metrics))}, %"
    header = tell_apart([*table.row_keys, *headings])
    return Grid(title, header, lines, "l" * len(table.row_keys) + "r" * len(columns))


def cell_text(cell: Cell | None, metric: str) -> str:
    """``88.12 ± 0.20 (n=2, 1 failed)``, ``failed (3)``, or a dash where there is no run or no such metric."""
    if cell is None:
        return ABSENT
    found = cell.spread(metric)
    states = [(state, cell.count(state)) for state in ("failed", "incomplete")]
    if found is None or math.isnan(found.mean):  # a class without test samples has no recall
        return ", ".join(f"{state} ({count})" for state, count in states if count) or ABSENT
    deviation = "" if found.sd is None else f" ± {found.sd:.2f}"
    counts = ", ".join([f"n={found.n}", *(f"{count} {state}" for state, count in states if count)])
    return f"{found.mean:.2f}{deviation} ({counts})"


def comparison_grid(table: Table, comparisons: Sequence[Comparison], against: str, test: Test) -> Grid:
    """A line for each comparison."""
    lines = []
    places = [*dict.fromkeys((comparison.metric, comparison.column) for comparison in comparisons)]
    headings = dict(zip(places, tell_apart([_heading(table, *place) for place in places]), strict=True))
    for comparison in comparisons:
        n, mean, interval, p, remark = comparison.paired
        texts = [
            *map(_shown, comparison.row),
            headings[comparison.metric, comparison.column],
            ABSENT if mean is None else f"{mean:+.2f}",
            ABSENT if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}",
            ABSENT if p is None else f"{p:.2g}",
            str(n),
            remark,
        ]
        lines.append([Entry(text) for text in texts])
    header = tell_apart([*table.row_keys, "column", "mean difference", "95 % CI", "p", "n", "remark"])
    title = f"Differences from {against}, percentage points, paired by seed, {_TESTS[test]}"
    return Grid(title, header, lines, "l" * len(table.row_keys) + "lrrrrl")


def notes(
    table: Table, metrics: Sequence[str], published: Sequence[Series], faults: Iterable[str], *, compared: bool
) -> list[str]:
    """Write the notes: explanations of the grids, then failed runs and faults."""
    fixed = table.runs[0].settings
    shown = {*table.row_keys, *table.column_keys}
    common = [key for key in ("data", "backbone", "noise", "noise.ratio") if key not in shown and key in fixed]
    same = [f"{key}={spell(fixed[key])}" for key in common if len({r.settings.get(key) for r in table.runs}) == 1]
    lines = [FIRST_NOTE]
    if same:
        lines.append(f"All runs: {', '.join(same)}.")
    lines += [f"Protocol {name}: {epochs}." for name, epochs in epochs_by_protocol(table.runs) if epochs]
    if unshown := unshown_keys(table):
        lines.append(f"Runs differ in keys that no row and no column shows, too: {', '.join(unshown)}.")
    if "best" in metrics:
        lines.append("The best test epoch is selected on the test set: an optimistic number, no estimate.")
    if compared:
        lines.append("Intervals are Student's, for the mean; p is two-sided and not corrected for several comparisons.")
    lines += [
        f"[{number}] published, not measured here: {source}; pretraining: {pretraining}; protocol: {protocol}."
        for number, (source, pretraining, protocol, _) in enumerate((series.source for series in published), start=1)
    ]
    return [*lines, *_failures(table.runs), *faults]


def _failures(runs: Sequence[Run]) -> list[str]:
    return [f"failed: {run.path}: {run.error}" for run in runs if run.state == "failed"]


def _has_content(table: Table, metric: str, column: Values) -> bool:
    return any(cell_text(table.cells.get((row, column)), metric) != ABSENT for row in table.rows)


def _best_rows(table: Table, metric: str, column: Values) -> set[Values]:
    """Rows with the best mean among those that share data and protocol, where there are several."""
    sign = -1 if metric in _LESS_IS_BETTER else 1
    means: dict[tuple[Hashable, ...], dict[Values, float]] = {}
    for row in table.rows:
        cell = table.cells.get((row, column))
        found = cell.spread(metric) if cell else None
        if cell and found:
            group = tuple(cell.settings[key] for key in _APART)
            means.setdefault(group, {})[row] = sign * found.mean
    return {
        row
        for competitors in means.values()
        for row, mean in competitors.items()
        if len(competitors) > 1 and mean == max(competitors.values())
    }


def _heading(table: Table, metric: str, column: Values) -> str:
    labels = [labeled(key, value) for key, value in zip(table.column_keys, column, strict=True)]
    return ", ".join([*([metric_name(metric)] if metric else []), *labels])


def _shown(value: Hashable) -> str:
    return ABSENT if value is None else spell(value)
