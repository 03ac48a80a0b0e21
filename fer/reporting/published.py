"""Published numbers of RAF-DB, to stand beside one's own; never part of a mean."""

from __future__ import annotations

import csv
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import NamedTuple

from fer.reporting.collect import Settings
from fer.reporting.table import Table, Values

# What the source states of a run's configuration; columns by other keys have no published counterpart.
_STATED = ("method", "backbone", "data", "noise", "noise.ratio")


class Source(NamedTuple):
    """Where numbers come from and how they were obtained, as far as that is stated."""

    source: str
    pretraining: str
    protocol: str


@dataclass
class Series:
    """Numbers of one source for one row of the table, in percent by column."""

    row: dict[str, Hashable]
    source: Source
    values: dict[Values, float] = field(default_factory=dict)


def series_beside(table: Table, metric: str) -> list[Series]:
    """What is published for the configurations in the table.

    Only for runs on all of RAF-DB without or with symmetric noise, by method and backbone.
    """
    if not set(table.column_keys) <= {*_STATED}:
        return []
    found: dict[tuple[Values, Source], Series] = {}
    for (_, column), cell in table.cells.items():
        for source, value in _published(cell.settings, metric):
            stated = {key: cell.settings.get(key) for key in table.row_keys if key in _STATED}
            stated["protocol"] = source.protocol
            place = (tuple(stated.values()), source)
            found.setdefault(place, Series(stated, source)).values[column] = value
    return list(found.values())


def _published(settings: Settings, metric: str) -> list[tuple[Source, float]]:
    # Other images in RAF-DB's layout have data.reader.expected=null.
    is_whole = settings.get("data.reader.expected") and settings.get("train_samples") is None
    if not is_whole or settings.get("noise") not in ("none", "symmetric"):
        return []
    wanted = tuple(settings.get(key) for key in ("data", "method", "backbone", "noise.ratio"))
    return _numbers().get((*wanted, metric), [])


@cache
def _numbers() -> dict[Values, list[tuple[Source, float]]]:
    numbers: dict[Values, list[tuple[Source, float]]] = {}
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    for line in csv.DictReader(text.splitlines()):
        key = (line["data"], line["method"], line["backbone"], float(line["noise_ratio"]), line["metric"])
        source = Source(line["source"], line["pretraining"], line["protocol"])
        numbers.setdefault(key, []).append((source, float(line["value"])))
    return numbers
