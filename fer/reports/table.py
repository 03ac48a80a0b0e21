"""Runs arranged in rows and columns so that a cell holds one configuration's seeds and nothing else."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fer.reports.collect import check_keys
from fer.reports.run import Run, Settings
from fer.runs.run_folder import State

Values = tuple[Hashable, ...]

_GROUPS = ("method", "backbone", "data", "augment", "optim")
_NOISE = ("noise", "noise.ratio")


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1 in the denominator; ``None`` for one value), in percent."""

    n: int
    mean: float
    sd: float | None


def spread(values: Sequence[float]) -> Spread:
    return Spread(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Cell:
    """The runs of one configuration, which differ in their seed only."""

    runs: tuple[Run, ...]

    @property
    def settings(self) -> Settings:
        return self.runs[0].settings

    def by_seed(self, metric: str) -> dict[Hashable, float]:
        """Percent of every finished run that has the metric."""
        return {run.seed: run.metrics[metric] for run in self.runs if metric in run.metrics}

    def spread(self, metric: str) -> Spread | None:
        values = [*self.by_seed(metric).values()]
        return spread(values) if values else None

    def count(self, state: State) -> int:
        return sum(run.state == state for run in self.runs)


@dataclass(frozen=True)
class Table:
    """Cells by the values of the row and of the column keys, in reading order; a place without runs has no cell."""

    row_keys: tuple[str, ...]
    column_keys: tuple[str, ...]
    rows: tuple[Values, ...]
    columns: tuple[Values, ...]
    cells: dict[tuple[Values, Values], Cell]

    @property
    def runs(self) -> list[Run]:
        return [run for cell in self.cells.values() for run in cell.runs]

    def settings(self, row: Values, column: Values) -> dict[str, Hashable]:
        return dict(zip((*self.row_keys, *self.column_keys), (*row, *column), strict=True))


def arrange(runs: Sequence[Run], rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Table:
    """Group runs.

    Without ``rows``: the method and every other group whose option differs. Without ``columns``: the noise and its
    ratio where they differ. Every other key that differs and that the chosen ones do not determine becomes a row key
    too, and the protocol always is one, so nothing but seeds is ever averaged.

    Raises:
        UserError: no run has one of the keys.
    """
    check_keys([*rows, *columns], runs)
    differing = _differing_keys(runs)
    columns = [*dict.fromkeys(columns)]
    if not columns:
        columns = [key for key in _NOISE if key in differing and key not in rows]
    if not rows:
        rows = [key for key in _GROUPS if (key == "method" or key in differing) and key not in columns]
    row_keys = list(dict.fromkeys(key for key in rows if key not in columns))
    for key in differing:
        if not _is_determined(key, (*row_keys, *columns), runs):
            row_keys.append(key)
    if "protocol" not in (*row_keys, *columns):
        row_keys.append("protocol")
    members: dict[tuple[Values, Values], list[Run]] = defaultdict(list)
    for run in runs:
        members[_values(run, row_keys), _values(run, columns)].append(run)
    ordered_rows = _in_reading_order(row for row, _ in members)
    ordered_columns = _in_reading_order(column for _, column in members)
    places = [place for place in itertools.product(ordered_rows, ordered_columns) if place in members]
    return Table(
        row_keys=tuple(row_keys),
        column_keys=tuple(columns),
        rows=ordered_rows,
        columns=ordered_columns,
        cells={place: Cell(tuple(members[place])) for place in places},
    )


def _differing_keys(runs: Sequence[Run]) -> list[str]:
    """Keys with several values that make a run another run; groups first, then as the configuration has them.

    Another seed that equals the run's in every run, as with ``noise.seed=${seed}``, is part of the repetition.
    """
    keys = dict.fromkeys([*_GROUPS, *_NOISE, *(key for run in runs for key in run.settings if key in run.named)])
    return [
        key
        for key in keys
        if len({run.settings.get(key) for run in runs}) > 1
        and not (key.endswith(".seed") and all(run.settings.get(key) == run.seed for run in runs))
    ]


def unshown_keys(table: Table) -> list[str]:
    """Name the keys in which the runs of a table differ and that no row and no column shows.

    Keys whose values follow from the option of a shown group are one entry, such as ``method.*``; those of the noise
    are named one by one, but for its function. Keys that a method decided by whether labels are wrong, such as
    ``method.erase=released``, come last.
    """
    shown = {*table.row_keys, *table.column_keys}
    found: dict[str, None] = {}
    for key in _differing_keys(table.runs):
        section = key.partition(".")[0]
        if key not in shown:
            follows = section in shown and section != key and _is_determined(key, (section,), table.runs)
            if follows and key == "noise._target_":
                continue
            found[f"{section}.*" if follows and section in _GROUPS else key] = None
    for key in dict.fromkeys(key for run in table.runs for key in run.decided):
        choices = {(run.settings.get(key), run.decided[key]) for run in table.runs if key in run.decided}
        if len(choices) > len({given for given, _ in choices}):
            made = ", ".join(sorted({value for _, value in choices}))
            found[f"{key} (decided by whether labels are wrong: {made})"] = None
    return [*found]


def _is_determined(key: str, by: Sequence[str], runs: Sequence[Run]) -> bool:
    """Tell whether runs that agree on ``by`` also agree on ``key``."""
    seen: dict[Values, Hashable] = {}
    return all(seen.setdefault(_values(run, by), run.settings.get(key)) == run.settings.get(key) for run in runs)


def _values(run: Run, keys: Sequence[str]) -> Values:
    return tuple(run.settings.get(key) for key in keys)


def _in_reading_order(places: Iterable[Values]) -> tuple[Values, ...]:
    """Sort values: numbers by size, then words, then unset ones."""

    def rank(value: Hashable) -> tuple[int, float, str]:
        if isinstance(value, int | float):
            return 0, value, ""
        return (2, 0, "") if value is None else (1, 0, str(value))

    return tuple(sorted(set(places), key=lambda place: [rank(value) for value in place]))
