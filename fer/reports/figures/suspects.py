"""Suspect labels: training labels that networks contradict, as lines of a table and as a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer.reports.figures.page import POINT, Sheet
from fer.reports.figures.style import COLORS, shorten
from fer.runs.predictions import SplitTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = ("rank", "file", "given", "predicted", "confidence", "true", "is_wrong")
MOST_SHOWN = 48
_FIRST = (50, 100)
_COLUMNS = 8
_FACE, _GAP, _SIZE, _MARGIN, _HEAD = 0.82, 0.1, 6.5, 0.1, 0.81
"""Inches, and points of the captions."""
_WRONG, _OTHER = COLORS[1], "#888888"


def contradicted(train: SplitTable) -> NDArray[np.int64]:
    """Positions of the samples that are not predicted as labeled, the most confident first."""
    found = np.flatnonzero(train.predicted != train.given)
    return found[np.argsort(-train.confidence[found], kind="stable")]


def suspect_rows(train: SplitTable, order: NDArray[np.int64]) -> Iterator[list[Any]]:
    """Lines below ``HEADER`` in this order; the last two fields are empty where true labels are not known."""
    name = train.class_names
    for rank, at in enumerate(order, start=1):
        clean, given, predicted = train.clean[at], train.given[at], train.predicted[at]
        truth = [name[clean], int(given != clean)] if train.has_changed_labels else ["", ""]
        yield [rank, train.file[at], name[given], name[predicted], f"{train.confidence[at]:.6f}", *truth]


def precision(train: SplitTable, order: NDArray[np.int64]) -> str:
    """Say in words how many of the first suspects have a wrong label."""
    counted = f"{len(order):,} of {len(train):,} training labels are contradicted"
    if not len(order):
        return f"no training label of {len(train):,} is contradicted"
    if not train.has_changed_labels:
        return f"{counted}; which ones are wrong is not known, as no label was changed"
    is_wrong = train.given != train.clean
    sizes = [size for size in _FIRST if size < len(order)]
    parts = [f"{is_wrong[order[:size]].sum()} of the first {size}" for size in sizes]
    parts.append(f"{is_wrong[order].sum():,} of these {len(order):,}")
    return f"{counted}; wrong are {', '.join(parts)}, and {is_wrong.sum():,} in all"


def suspects_figure(
    train: SplitTable, order: NDArray[np.int64], faces: NDArray[np.uint8], lines: Sequence[str]
) -> Figure:
    """A contact sheet of the first suspects; frames in color and a cross mark those whose label is wrong indeed.

    Args:
        train: the training split.
        order: positions of the suspects.
        faces: those of the first suspects, at least one, uint8 (m, 3, h, w).
        lines: three: what is shown, what was trained, and how many suspects have a wrong label.
    """
    order = order[: len(faces)]
    knows = train.has_changed_labels
    line = 1.25 * _SIZE * POINT
    pitch = _FACE + (3 if knows else 2) * line + 0.12
    width = 2 * _MARGIN + _COLUMNS * (_FACE + _GAP) - _GAP
    sheet = Sheet(width, _HEAD + -(-len(order) // _COLUMNS) * pitch)
    for y, size, text in zip((0.07, 0.23, 0.39), (8, 8, 7), lines, strict=True):
        sheet.text(_MARGIN, y, text, size, width=width - _MARGIN)
    captions = "Below each face: given label / predicted label and its probability"
    if knows:
        captions += " / true label; framed and marked ✗ where the given label is wrong"
    sheet.text(_MARGIN, 0.56, captions, 7)
    for place, at in enumerate(order):
        row, column = divmod(place, _COLUMNS)
        x, y = _MARGIN + column * (_FACE + _GAP), _HEAD + row * pitch
        is_wrong = knows and train.given[at] != train.clean[at]
        sheet.picture(x, y, _FACE, faces[place], _WRONG if is_wrong else _OTHER, 2.0 if is_wrong else 0.5)
        clean, given, predicted = (
            shorten(train.class_names[label[at]], _FACE - 0.2, _SIZE)
            for label in (train.clean, train.given, train.predicted)
        )
        captioned = [(f"✗ {given}", _WRONG) if is_wrong else (given, "black")]
        captioned += [
            (text, "black") for text in (f"{predicted} {train.confidence[at]:.2f}", *([clean] if knows else []))
        ]
        for number, (text, color) in enumerate(captioned):
            sheet.text(x, y + _FACE + 0.03 + number * line, text, _SIZE, color=color)
    return sheet.figure
