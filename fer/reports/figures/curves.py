"""Figures of a table's runs: accuracy over noise ratio and over lambda, learning curves; mean ± sd over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer.files.visible_text import tell_apart
from fer.reports.collect import epochs_by_protocol
from fer.reports.epochs import span
from fer.reports.figures.style import COLORS, MARKERS, wrap, write_figures
from fer.reports.run import Run
from fer.reports.table import Cell, Spread, Table, Values, spread
from fer.reports.wording import labeled, metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = dict[float, Spread]
Panel = dict[str, Curve]
"""Curves by label, each a spread over seeds by position on the x axis."""

_LINES = ("-", "--", ":", "-.")
_OVER = {"noise.ratio": "share of wrong labels (noise.ratio)", "method.lam": "lambda (method.lam)"}
_MOST_MARKERS = 12
# Inches that a legend entry takes, without its text and for each character of it.
_HANDLE, _CHARACTER = 0.8, 0.09
_MEASURED = {"test/acc": "tested after", "train/memorized": "measured during"}
"""Metrics with learning curves, and when in an epoch they are measured."""


def draw(table: Table, folder: Path) -> list[Path]:
    """Write every figure that the runs support, as PNG and as SVG, and return the files.

    Raises:
        UserError: the folder cannot be written to.
    """
    return write_figures(_figures(table), folder)


def _figures(table: Table) -> Iterator[tuple[str, Figure]]:
    for key, label in _OVER.items():
        panel, runs = _accuracy_over(table, key)
        if panel:
            epochs = "; ".join(f"{protocol}: {epochs}" for protocol, epochs in epochs_by_protocol(runs))
            yield f"accuracy_over_{key.replace('.', '_')}", _figure({"": panel}, label, "test/acc", [*panel], epochs)
    for metric in _MEASURED:
        panels, labels = _learning_curves(table, metric)
        if panels:
            positions = span(int(epoch) for panel in panels.values() for curve in panel.values() for epoch in curve)
            epochs = f"{_MEASURED[metric]} each of epochs {positions}"
            yield f"{metric.replace('/', '_')}_by_epoch", _figure(panels, "epoch", metric, labels, epochs)


def _accuracy_over(table: Table, key: str) -> tuple[Panel, list[Run]]:
    """Make a curve for each set of settings that several values of ``key`` were run with; and name the runs drawn."""
    keys = [other for other in (*table.row_keys, *table.column_keys) if other != key]
    if key == "noise.ratio" and _has_one_kind_of_noise(table):
        keys = [other for other in keys if other != "noise"]
    found: dict[Values, Curve] = defaultdict(dict)
    members: dict[Values, list[Run]] = defaultdict(list)
    for cell in table.cells.values():
        position, accuracy = cell.settings.get(key), cell.spread("test/acc")
        if isinstance(position, int | float) and accuracy:
            values = tuple(cell.settings.get(other) for other in keys)
            found[values][float(position)] = accuracy
            members[values] += [run for run in cell.runs if run.state == "done"]
    curves = {values: curve for values, curve in found.items() if len(curve) > 1}
    labels = _labels(keys, [*curves])
    return (
        {labels[values]: curve for values, curve in curves.items()},
        [run for values in curves for run in members[values]],
    )


def _has_one_kind_of_noise(table: Table) -> bool:
    """Tell whether runs without wrong labels can be the first point of a curve over noise ratios."""
    kinds = {(cell.settings["noise"], bool(cell.settings.get("noise.ratio"))) for cell in table.cells.values()}
    return len(kinds) == len({is_noisy for _, is_noisy in kinds})


def _learning_curves(table: Table, metric: str) -> tuple[dict[str, Panel], list[str]]:
    """A panel for each column of the table, a curve for each of its rows, epochs from 1; and the rows' labels."""
    found = {place: _by_epoch(cell, metric) for place, cell in table.cells.items()}
    curves = {place: curve for place, curve in found.items() if len(curve) > 1}
    labels = _labels(table.row_keys, [row for row in table.rows if any(row == other for other, _ in curves)])
    panels: dict[str, Panel] = defaultdict(dict)
    titles = tell_apart([_label(table.column_keys, column) for column in table.columns])
    for title, column in zip(titles, table.columns, strict=True):
        for row in labels:
            if (row, column) in curves:
                panels[title][labels[row]] = curves[row, column]
    return panels, [*labels.values()]


def _by_epoch(cell: Cell, metric: str) -> Curve:
    values: dict[float, list[float]] = defaultdict(list)
    for run in cell.runs:
        for record in run.records:
            if metric in record:
                values[record["epoch"] + 1].append(100 * record[metric])
    return {epoch: spread(shares) for epoch, shares in values.items()}


def _labels(keys: Sequence[str], curves: Sequence[Values]) -> dict[Values, str]:
    """Label the curves by the values in which they differ, or a single curve by its first value."""
    differing = [i for i in range(len(keys)) if len({values[i] for values in curves}) > 1] or [0]
    names = [keys[i] for i in differing]
    labels = [_label(names, [values[i] for i in differing]) or "not set" for values in curves]
    return dict(zip(curves, tell_apart(labels), strict=True))


def _label(keys: Sequence[str], values: Sequence[Hashable]) -> str:
    return ", ".join(labeled(key, value) for key, value in zip(keys, values, strict=True) if value is not None)


def _figure(panels: Mapping[str, Panel], x_label: str, metric: str, labels: Sequence[str], epochs: str) -> Figure:
    from matplotlib.figure import Figure

    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    width = max(5.6, 3.7 * columns)
    figure = Figure(figsize=(width, 3.2 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(wrap(f"mean ± standard deviation over seeds; {epochs}", width - 0.2, 9), fontsize=9)
    handles = {}
    for place, (axes, (title, panel)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        axes.set_title(title, fontsize="medium")
        for label, curve in panel.items():
            handles[label] = _draw_curve(axes, curve, labels.index(label))
        if place % columns == 0:
            axes.set_ylabel(f"{metric_name(metric)}, %")
        if place + columns >= len(panels):
            axes.set_xlabel(x_label)
            axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=max(1, int(width / (_HANDLE + _CHARACTER * max(map(len, labels))))),
        frameon=False,
    )
    return figure


def _draw_curve(axes: Axes, curve: Curve, number: int) -> Any:
    xs = sorted(curve)
    color = COLORS[number % len(COLORS)]
    is_sparse = len(xs) <= _MOST_MARKERS
    (line,) = axes.plot(
        xs,
        [curve[x].mean for x in xs],
        color=color,
        linestyle=_LINES[number // len(COLORS) % len(_LINES)],
        marker=MARKERS[number % len(MARKERS)] if is_sparse else None,
        gid=f"curve-{number}",
    )
    axes.locator_params(axis="x", integer=all(float(x).is_integer() for x in xs))
    low = [curve[x].mean - (curve[x].sd or 0) for x in xs]
    high = [curve[x].mean + (curve[x].sd or 0) for x in xs]
    axes.fill_between(xs, low, high, color=color, alpha=0.2, linewidth=0)
    return line
