"""Cleaning of a data set: suspect labels of a cross-validation, their faces, and a list with better labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fer.data.label_list import write_label_list
from fer.data.table import BoolArray, IntArray
from fer.errors import UserError
from fer.files.csv_files import write_table
from fer.files.visible_text import visible_name
from fer.reports.confident_learning import find_wrong_labels
from fer.reports.figures.all_figures import STYLE
from fer.reports.figures.drawn_runs import Subject, subjects
from fer.reports.figures.style import write_figures
from fer.reports.figures.suspects import HEADER, MOST_SHOWN, suspect_rows, suspects_figure
from fer.reports.table import Table
from fer.runs.predictions import SplitTable
from fer.training.kept_config import ReadingOptions


def write_suspects(
    table: Table, folder: Path, *, options: ReadingOptions, overwrite: bool = False
) -> tuple[list[Path], list[str]]:
    """Write, for each finished cross-validation, its suspect labels and a list in which they are replaced.

    ``suspects-<name>.csv`` and a contact sheet of that name hold the labels that confident learning calls wrong, the
    surest first; ``labels-<name>.txt`` is for ``noise=file``. Probabilities are means over a configuration's seeds.

    Args:
        table: of runs.
        folder: is made where it is missing.
        options: how the runs' configurations are read.
        overwrite: replace label lists that differ.

    Returns:
        The pictures, and remarks for the report.

    Raises:
        UserError: there is no finished cross-validation, or the folder or a list cannot be written.
    """
    settings = [[subject for subject in group if subject.run.folds] for group in subjects(table, options)]
    settings = [group for group in settings if group]
    if not settings:
        raise UserError(
            "--suspects needs a finished cross-validation, whose networks have not seen the labels that they judge: "
            "fer-train -m protocol=folds folds=5 'fold=range(5)'"
        )
    files, remarks = [], []
    for group in settings:
        joined = _mean(group)
        found = find_wrong_labels(joined.given, joined.probabilities)
        name, order = group[0].name, found.positions
        summary = _found(joined, order)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_table(folder / f"suspects-{name}.csv", HEADER, suspect_rows(joined, order))
            corrected = joined.given.copy()
            corrected[order] = found.suggested
            listed = _write_list(folder / f"labels-{name}.txt", joined, corrected, overwrite)
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror or error})") from error
        remarks += [f"suspects-{name}.csv: {summary}", listed]
        try:
            faces = group[0].training_faces(order[:MOST_SHOWN])
        except UserError as error:
            remarks.append(f"no faces of suspect labels of {group[0].run.path}: {str(error).splitlines()[0]}")
            continue
        if len(faces):
            seeds = f"mean of {len(group)} seeds" if len(group) > 1 else f"seed {group[0].run.seed}"
            heading = f"Probably wrong labels by confident learning from out-of-fold predictions · {seeds}"
            sheet = suspects_figure(joined, order, faces, [heading, group[0].setting, summary])
            files += write_figures([(f"suspects-{name}", sheet)], folder, STYLE)
    return files, remarks


def _mean(group: Sequence[Subject]) -> SplitTable:
    """Average the out-of-fold probabilities over seeds."""
    tables = [subject.predictions["train"] for subject in group]
    first = tables[0]
    for subject, each in zip(group, tables, strict=True):
        if each.file != first.file or not np.array_equal(each.given, first.given):
            raise UserError(f"{subject.run.path} and {group[0].run.path} have other samples or other given labels")
    probabilities = np.mean([each.probabilities for each in tables], axis=0)
    return replace(
        first,
        probabilities=probabilities,
        predicted=probabilities.argmax(axis=1).astype(np.int64),
        confidence=probabilities.max(axis=1),
    )


def _found(joined: SplitTable, order: IntArray) -> str:
    counted = f"{len(order):,} of {len(joined):,} labels are probably wrong"
    if not joined.has_changed_labels:
        return counted
    is_wrong = joined.given != joined.clean
    confirmed = int(is_wrong[order].sum())
    found = f"{confirmed:,} of these are (precision {_percent(confirmed, len(order))})"
    return f"{counted}; {found}, of {is_wrong.sum():,} wrong ones (recall {_percent(confirmed, int(is_wrong.sum()))})"


def _write_list(path: Path, joined: SplitTable, corrected: IntArray, overwrite: bool) -> str:
    """Write the corrected list and describe it; a list that differs, perhaps by hand, is not overwritten."""
    shown = visible_name(path.name)
    if len({*joined.file}) < len(joined):
        return f"no {shown}: some files have the same name, so that a list of names would not tell them apart"
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    write_label_list(unfinished, joined.file, corrected)
    if path.exists() and not overwrite and path.read_bytes() != unfinished.read_bytes():
        unfinished.unlink()
        raise UserError(f"{path} exists and differs: choose another --suspects, or give --overwrite")
    unfinished.replace(path)
    text = f"{shown}: these labels replaced by the most probable class, for noise=file noise.path={path}"
    if joined.has_changed_labels:
        text += f"; wrong are {_share(corrected != joined.clean)} instead of {_share(joined.given != joined.clean)}"
    return text


def _share(which: BoolArray) -> str:
    return _percent(int(which.sum()), len(which))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
