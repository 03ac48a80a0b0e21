"""Paired comparison with a baseline: the same seeds, everything else equal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from fer.errors import UserError
from fer.reports.table import Cell, Table, Values
from fer.reports.wording import matches

Test = Literal["t", "wilcoxon"]

# Percentage points. Smaller differences are rounding errors; one test image makes a far larger one.
_EQUAL = 1e-9


class Paired(NamedTuple):
    """Differences in percentage points; ``None`` where they allow no such number, for the reason in ``remark``."""

    n: int
    mean: float | None
    interval: tuple[float, float] | None
    p: float | None
    remark: str


@dataclass(frozen=True)
class Comparison:
    """A cell against the baseline's cell in the same column."""

    row: Values
    column: Values
    metric: str
    paired: Paired


def compare(table: Table, metric: str, against: str, test: Test) -> list[Comparison]:
    """Compare every cell with its baseline: the row with a given value of one row key and equal values of all others.

    Keys below the one that is compared, such as ``method.lam`` below ``method``, belong to it and may differ.

    Args:
        against: a value of the first row key, or ``key=value``.

    Raises:
        UserError: there is no such row key, no such row, or several that one row could be compared with.
    """
    key, value = against.split("=", 1) if "=" in against else (table.row_keys[0], against)
    if key not in table.row_keys:
        raise UserError(f"--against {against}: {key} is no row key (these are {', '.join(table.row_keys)}); see --rows")
    position = table.row_keys.index(key)
    if not any(matches(row[position], value) for row in table.rows):
        present = sorted({str(row[position]) for row in table.rows})
        raise UserError(f"--against {against}: no run has {key}={value}, only {', '.join(present)}")
    return list(_comparisons(table, metric, key, value, test))


def _comparisons(table: Table, metric: str, key: str, value: str, test: Test) -> Iterator[Comparison]:
    position = table.row_keys.index(key)
    others = [i for i, other in enumerate(table.row_keys) if i != position and not other.startswith(f"{key}.")]
    baselines = [row for row in table.rows if matches(row[position], value)]
    for (row, column), cell in table.cells.items():
        if row in baselines:
            continue
        equal = [baseline for baseline in baselines if all(baseline[i] == row[i] for i in others)]
        if len(equal) > 1:
            raise UserError(f"{key}={value} stands in {len(equal)} rows that differ below {key}; choose with --where")
        baseline = table.cells.get((equal[0], column)) if equal else None
        yield Comparison(row, column, metric, _paired_cells(cell, baseline, metric, key, test))


def _paired_cells(ours: Cell, baseline: Cell | None, metric: str, key: str, test: Test) -> Paired:
    if baseline is None:
        return Paired(0, None, None, None, "no baseline run with all else equal")
    values, reference = ours.by_seed(metric), baseline.by_seed(metric)
    seeds = [seed for seed in values if seed in reference]
    found = paired([values[seed] - reference[seed] for seed in seeds], test)
    unequal = _further_differences(ours, baseline, key)
    remarks = [found.remark, f"differing too: {', '.join(unequal)}" if unequal else ""]
    return found._replace(remark="; ".join(filter(None, remarks)))


def _further_differences(ours: Cell, baseline: Cell, key: str) -> list[str]:
    """Keys outside of ``key`` in which runs of the same seed differ."""
    counterparts = {run.seed: run for run in baseline.runs}
    pairs = [(run, counterparts[run.seed]) for run in ours.runs if run.seed in counterparts]
    return sorted({
        name
        for run, counterpart in pairs
        for name in run.named | counterpart.named
        if name != key and not name.startswith(f"{key}.")
        and run.settings.get(name) != counterpart.settings.get(name)
    })  # fmt: skip


def paired(differences: Sequence[float], test: Test) -> Paired:
    """Two-sided test of differences against zero, with the 95 % interval of their mean after Student.

    Fewer than two differences, or equal ones, have no spread to judge them by: no interval, and no p of the t-test.
    """
    n = len(differences)
    if n == 0:
        return Paired(0, None, None, None, "no common seed")
    mean = math.fsum(differences) / n
    if n == 1:
        return Paired(1, mean, None, None, "one pair: no test")
    all_equal = max(differences) - min(differences) < _EQUAL
    if all_equal and (test == "t" or abs(mean) < _EQUAL):
        return Paired(n, mean, None, None, "equal differences: no test")

    from scipy import stats

    interval = None
    if not all_equal:
        low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        interval = float(low), float(high)
    if test == "t":
        return Paired(n, mean, interval, float(stats.ttest_1samp(differences, 0).pvalue), "")
    # Rounded, because ranks must not depend on the last bit.
    p = float(stats.wilcoxon([round(difference, 9) for difference in differences]).pvalue)
    return Paired(n, mean, interval, p, f"least p possible {2 ** (1 - n):.3g}" if n < 8 else "")
