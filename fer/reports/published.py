"""Published numbers of RAF-DB, shown beside the user's results; never part of a mean."""

from __future__ import annotations

import csv
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import NamedTuple

from fer.config.known_targets import CONFIG_DIR
from fer.reports.run import Run, Settings
from fer.reports.table import Table, Values

RAF_DB_LABELS = "465ba7d8c1bbb05c722c76bfbc779c31e8eb959c75024e2206c283a7ad5eb762"
"""Digest (``fer.data.noise.labels_digest``) of RAF-DB's labels: training, then test images, by their numbers."""

# Keys of a configuration that sources state; columns by other keys have no published counterpart.
_STATED = ("method", "backbone", "data", "noise", "noise.ratio")


class Source(NamedTuple):
    """Source of published numbers and how they were obtained, as far as it is stated."""

    source: str
    pretraining: str
    protocol: str
    backbone: str


@dataclass
class Series:
    """Numbers of one source for one row of the table, in percent by column."""

    row: dict[str, Hashable]
    source: Source
    values: dict[Values, float] = field(default_factory=dict)


def series_beside(table: Table, metric: str) -> list[Series]:
    """Find what is published for the configurations in the table, and for methods that the project does not have.

    Only for runs on all of RAF-DB without or with symmetric noise, by method and backbone; numbers whose backbone is
    not stated stand beside any.
    """
    if not set(table.column_keys) <= {*_STATED}:
        return []
    found: dict[tuple[Values, Source], Series] = {}
    for (_, column), cell in table.cells.items():
        if not _is_raf_db(cell.runs[0]):
            continue
        for method in (cell.settings.get("method"), *_methods_of_others()):
            settings = {**cell.settings, "method": method}
            for source, value in _published(settings, metric):
                stated = {key: settings.get(key) for key in table.row_keys if key in _STATED}
                if "backbone" in stated:
                    stated["backbone"] = source.backbone
                stated["protocol"] = source.protocol
                place = (tuple(stated.values()), source)
                found.setdefault(place, Series(stated, source)).values[column] = value
    return list(found.values())


def _is_raf_db(run: Run) -> bool:
    """Tell by the true labels whether a run is of all of RAF-DB; before they are known, by its settings."""
    if run.settings.get("data") != "raf_db" or run.settings.get("train_samples") is not None:
        return False
    if run.clean_labels is not None:
        return run.clean_labels == RAF_DB_LABELS
    return bool(run.settings.get("data.reader.expected"))  # null: other images in RAF-DB's layout


def _published(settings: Settings, metric: str) -> list[tuple[Source, float]]:
    if settings.get("noise") not in ("none", "symmetric"):
        return []
    data, method, backbone, ratio = (settings.get(key) for key in ("data", "method", "backbone", "noise.ratio"))
    return [
        number
        for stated in (backbone, "not stated")
        for number in _numbers().get((data, method, stated, ratio, metric), [])
    ]


@cache
def _methods_of_others() -> tuple[str, ...]:
    ours = {path.stem for path in (CONFIG_DIR / "method").glob("*.yaml")}
    return tuple(sorted({str(method) for _, method, *_ in _numbers()} - ours))


@cache
def _numbers() -> dict[Values, list[tuple[Source, float]]]:
    numbers: dict[Values, list[tuple[Source, float]]] = {}
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    for line in csv.DictReader(text.splitlines()):
        key = (line["data"], line["method"], line["backbone"], float(line["noise_ratio"]), line["metric"])
        source = Source(line["source"], line["pretraining"], line["protocol"], line["backbone"])
        numbers.setdefault(key, []).append((source, float(line["value"])))
    return numbers
