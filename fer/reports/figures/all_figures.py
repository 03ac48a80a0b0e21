"""All figures that the finished runs of a table support, and a line for each figure that they do not support."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fer.errors import UserError
from fer.files.csv_files import write_table
from fer.files.terminal import say
from fer.reports.epochs import epochs_of_networks
from fer.reports.figures.cam_grid import Shown, Track, cam_grid, pages
from fer.reports.figures.confusion import confusion_counts, confusion_figure
from fer.reports.figures.drawn_runs import Subject, subjects
from fer.reports.figures.features import embedding, features_figure
from fer.reports.figures.reliability import reliability_figure
from fer.reports.figures.style import write_figures
from fer.reports.figures.suspects import HEADER, MOST_SHOWN, contradicted, precision, suspect_rows, suspects_figure
from fer.reports.table import Table
from fer.reports.wording import spell
from fer.runs.predictions import read_class_names
from fer.training.kept_config import ReadingOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

T = TypeVar("T")
Figures = Iterator[tuple[str, "Figure"]]

STYLE: dict[RcKeyType, Any] = {"font.size": 8, "axes.grid": False, "savefig.dpi": 300, "hatch.linewidth": 0.5}


class Drawn(NamedTuple):
    """Figures, and remarks about them."""

    files: list[Path]
    notes: list[str]


def draw_figures(
    table: Table, folder: Path, *, options: ReadingOptions | None = None, shown: Shown = "predicted"
) -> Drawn:
    """Write all figures to ``folder``, as PNG and as SVG, and the suspect labels as CSV.

    Confusion matrices are means over a configuration's seeds; every other figure is of its finished run with the lowest
    seed. Runs that kept maps of the same faces share a figure of them.

    Args:
        table: the runs.
        folder: is made where it is missing.
        options: how the runs' configurations are read.
        shown: whose maps are drawn.

    Raises:
        UserError: the folder cannot be written to.
    """
    remarks = _Remarks()
    settings = subjects(table, options or ReadingOptions())
    files = write_figures(_figures(settings, folder, shown, remarks), folder, STYLE)
    unfinished = [run for run in table.runs if run.state != "done"]
    if unfinished:
        remarks.lines.append(f"no figures of {len(unfinished)} unfinished runs, first {unfinished[0].path}")
    return Drawn(files, [*remarks.lines, *remarks.gaps()])


class _Remarks:
    """Lines for the report."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._missing: dict[tuple[Path, str], list[str]] = defaultdict(list)

    def attempt(self, subject: Subject, figure: str, make: Callable[[], T]) -> T | None:
        """Call ``make``; return ``None`` and note a gap if the run lacks what it needs."""
        try:
            return make()
        except (UserError, OSError) as error:
            first, *more = [line.strip(" -") for line in str(error).splitlines()]
            cause = " ".join([first, *more[:1]]) + (f" … ({len(more) - 1} lines more)" if more[1:] else "")
            self._missing[subject.run.path, cause].append(figure)
            return None

    def gaps(self) -> Iterator[str]:
        """A line for each run and cause."""
        for (path, cause), figures in self._missing.items():
            yield f"no {', '.join(figures)} of {path}: {cause}"


def _figures(settings: Sequence[Sequence[Subject]], folder: Path, shown: Shown, remarks: _Remarks) -> Figures:
    for runs in settings:
        say(f"drawing {runs[0].title}", to_stderr=True)
        yield from _confusion(runs, remarks)
        yield from _reliability(runs[0], remarks)
        yield from _suspects(runs[0], folder, remarks)
        yield from _features(runs[0], remarks)
    yield from _cams([runs[0] for runs in settings], shown, remarks)


def _confusion(runs: Sequence[Subject], remarks: _Remarks) -> Figures:
    matrices = {}
    for subject in runs:
        matrix = remarks.attempt(subject, "confusion matrix", partial(_confusion_of, subject))
        if matrix is not None:
            matrices[subject] = matrix
    if matrices:
        first, *others = matrices
        name = f"{first.name}-to-{others[-1].run.path.name}" if others else first.name
        seeds = ", ".join(spell(subject.run.seed) for subject in matrices)
        title = f"{first.setting} · mean of seeds {seeds}" if others else first.title
        epochs = epochs_of_networks(str(first.run.settings["protocol"]), [subject.run.epochs for subject in matrices])
        class_names = read_class_names(first.folder)
        yield f"confusion-{name}", confusion_figure([*matrices.values()], class_names, f"{title} · {epochs}")


def _confusion_of(subject: Subject) -> NDArray[np.int64]:
    return confusion_counts(subject.predictions["test"])


def _reliability(subject: Subject, remarks: _Remarks) -> Figures:
    test = remarks.attempt(subject, "reliability diagram", lambda: subject.predictions["test"])
    if test is not None:
        yield f"reliability-{subject.name}", reliability_figure(test, f"{subject.title} · {subject.epoch}")


def _suspects(subject: Subject, folder: Path, remarks: _Remarks) -> Figures:
    train = remarks.attempt(subject, "suspect labels", lambda: subject.predictions["train"])
    if train is None:
        return
    name = f"suspects-{subject.name}"
    order = contradicted(train)
    write_table(folder / f"{name}.csv", HEADER, suspect_rows(train, order))
    remarks.lines.append(f"{name}.csv: {precision(train, order)}")
    faces = remarks.attempt(subject, "faces of suspect labels", lambda: subject.training_faces(order[:MOST_SHOWN]))
    if faces is not None and len(faces):
        heading = f"Most confidently contradicted training labels · {subject.epoch}"
        yield name, suspects_figure(train, order, faces, [heading, subject.title, precision(train, order)])


def _features(subject: Subject, remarks: _Remarks) -> Figures:
    found = remarks.attempt(subject, "features", lambda: embedding(subject.folder, subject.data.train, subject.options))
    if found is not None:
        title = f"{subject.title} · {subject.epoch}"
        yield f"features-{subject.name}", features_figure(found, read_class_names(subject.folder), title)


def _cams(runs: Sequence[Subject], shown: Shown, remarks: _Remarks) -> Figures:
    tracks = [remarks.attempt(subject, "CAM grid", partial(_track, subject)) for subject in runs]
    for page in pages([track for track in tracks if track is not None]):
        others = f"-and-{len(page) - 1}-more" if page[1:] else ""
        yield f"cams-{shown}-{page[0].name}{others}", cam_grid(page, shown)


def _track(subject: Subject) -> Track:
    return Track(subject.name, subject.title, read_class_names(subject.folder), subject.cams)
