"""Figures of a table's runs: accuracy over noise ratio and over lambda, learning curves; mean ± sd over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer.errors import UserError
from fer.reporting.table import Spread, Table, Values, spread
from fer.reporting.wording import labelled, metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = dict[float, Spread]
Panel = dict[str, Curve]
"""Curves by label, each a spread over seeds by position on the x axis."""

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, too pale on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", ":", "-.")
_OVER = {"noise.ratio": "share of wrong labels (noise.ratio)", "method.lam": "lambda (method.lam)"}
_CURVES = ("test/acc", "train/memorized")


def draw(table: Table, folder: Path) -> list[Path]:
    """Write every figure that the runs support, as PNG and as SVG, and return the files.

    Raises:
        UserError: the folder cannot be written to.
    """
    from matplotlib import rc_context

    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context(
            {
                "font.size": 11,
                "axes.grid": True,
                "grid.alpha": 0.3,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "savefig.dpi": 150,
                "text.parse_math": False,  # a name is a name
                "svg.hashsalt": "fer-report",  # the same runs give the same file
            }
        ):
            for name, figure in _figures(table):
                for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
                    file = folder / f"{name}{suffix}"
                    figure.savefig(file, metadata=metadata)
                    files.append(file)
    except OSError as error:
        raise UserError(f"cannot write plots to {folder} ({error.strerror})") from error
    return files


def _figures(table: Table) -> Iterator[tuple[str, Figure]]:
    for key, label in _OVER.items():
        panel = _accuracy_over(table, key)
        if panel:
            yield f"accuracy_over_{key.replace('.', '_')}", _figure({"": panel}, label, "test/acc", markers=True)
    for metric in _CURVES:
        panels = _learning_curves(table, metric)
        if panels:
            yield f"{metric.replace('/', '_')}_by_epoch", _figure(panels, "epoch", metric, markers=False)


def _accuracy_over(table: Table, key: str) -> Panel:
    """A curve for each set of settings that several values of ``key`` were run with."""
    keys = [other for other in (*table.row_keys, *table.column_keys) if other != key]
    if key == "noise.ratio" and len({cell.settings["noise"] for cell in table.cells.values()} - {"none"}) <= 1:
        keys = [other for other in keys if other != "noise"]  # none is then the curve's point at 0
    found: dict[Values, Curve] = defaultdict(dict)
    for cell in table.cells.values():
        position, accuracy = cell.settings.get(key), cell.spread("test/acc")
        if isinstance(position, int | float) and accuracy:
            found[tuple(cell.settings.get(other) for other in keys)][float(position)] = accuracy
    return _labelled_curves(keys, {values: curve for values, curve in found.items() if len(curve) > 1})


def _learning_curves(table: Table, metric: str) -> dict[str, Panel]:
    """A panel for each column of the table, a curve for each of its rows; epochs from 1."""
    panels = {}
    for column in table.columns:
        found = {row: _by_epoch(table, row, column, metric) for row in table.rows}
        panel = _labelled_curves(table.row_keys, {row: curve for row, curve in found.items() if len(curve) > 1})
        if panel:
            panels[_label(table.column_keys, column)] = panel
    return panels


def _by_epoch(table: Table, row: Values, column: Values, metric: str) -> Curve:
    cell = table.cells.get((row, column))
    values: dict[float, list[float]] = defaultdict(list)
    for run in cell.runs if cell else ():
        for record in run.records:
            if metric in record:
                values[record["epoch"] + 1].append(100 * record[metric])
    return {epoch: spread(shares) for epoch, shares in values.items()}


def _labelled_curves(keys: Sequence[str], curves: Mapping[Values, Curve]) -> Panel:
    """Label curves with the values in which they differ, or with the first where there is one curve only."""
    differing = [i for i in range(len(keys)) if len({values[i] for values in curves}) > 1] or [0]
    return {_label([keys[i] for i in differing], [values[i] for i in differing]): curves[values] for values in curves}


def _label(keys: Sequence[str], values: Sequence[Hashable]) -> str:
    return ", ".join(labelled(key, value) for key, value in zip(keys, values, strict=True) if value is not None)


def _figure(panels: Mapping[str, Panel], x_label: str, metric: str, *, markers: bool) -> Figure:
    from matplotlib.figure import Figure

    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(5.6, 3.7 * columns), 3.3 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    labels = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    handles: dict[str, Any] = {}
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(title, fontsize="medium")
        for label, curve in panel.items():
            handles[label] = _draw_curve(axes, curve, labels.index(label), markers=markers)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel(x_label, fontsize="medium")
    figure.supylabel(f"{metric_name(metric)}, %", fontsize="medium")
    shown = [label for label in labels if label in handles]
    figure.legend(
        [handles[label] for label in shown],
        # matplotlib leaves entries that begin with an underscore out of legends.
        [f" {label}" if label.startswith("_") else label for label in shown],
        loc="outside lower center",
        ncols=2 if max(map(len, shown)) > 25 else min(len(shown), 4),
        frameon=False,
    )
    return figure


def _draw_curve(axes: Axes, curve: Curve, number: int, *, markers: bool) -> Any:
    xs = sorted(curve)
    colour = _COLOURS[number % len(_COLOURS)]
    (line,) = axes.plot(
        xs,
        [curve[x].mean for x in xs],
        color=colour,
        linestyle=_LINES[number // len(_COLOURS) % len(_LINES)],
        marker=_MARKERS[number % len(_MARKERS)] if markers else None,
        gid=f"curve-{number}",
    )
    low = [curve[x].mean - (curve[x].sd or 0) for x in xs]
    high = [curve[x].mean + (curve[x].sd or 0) for x in xs]
    axes.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
    return line
