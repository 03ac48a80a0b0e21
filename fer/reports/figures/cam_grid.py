"""Grid of CAMs over the epochs: faces and their mirror images, a group of columns for each run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fer.reports.epochs import span
from fer.reports.figures.page import POINT, Sheet
from fer.reports.figures.style import COLORS, shorten, wrap
from fer.runs.cams import CamRecord
from fer.views.heatmaps import overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Shown = Literal["predicted", "given", "true"]

_MOST_RUNS, _MOST_COLUMNS, _MOST_FACES = 3, 9, 14
_FACE, _LEFT, _FOOT, _MARGIN, _SIZE = 0.39, 0.95, 0.38, 0.08, 5.5
"""Inches, and points of the captions."""
_TITLE, _LINE, _EPOCHS = 0.23, 0.13, 0.26
"""Heights of the title, of a line of a run's title, and of the numbers of epochs."""
_SEAM, _GAP, _GAP_OF_RUNS = 0.015, 0.07, 0.09
"""Between face and mirror image, pairs, and what is added between runs."""
_PAIR, _PITCH = 2 * _FACE + _SEAM + _GAP, _FACE + 0.17
_LEAST_WIDTH = 6.5
"""Least width in inches, for title and legend if there are few columns."""
_HEAT = "viridis"
"""Grows brighter from end to end, so that it is read in gray and by everyone."""


class _Verdict(NamedTuple):
    sign: str
    color: str
    meaning: str


_RIGHT = _Verdict("✓", COLORS[0], "true label")
_MEMORIZED = _Verdict("✗", COLORS[1], "memorized: the wrong given label")
_OTHER = _Verdict("○", "#555555", "another label")


class Track(NamedTuple):
    """A run's records by epoch, at least one."""

    name: str
    """Name of the run in file names."""
    title: str
    class_names: tuple[str, ...]
    records: Mapping[int, CamRecord]

    @property
    def faces(self) -> tuple[bytes, ...]:
        """Key of the faces: equal for two runs that show the same faces with the same labels."""
        first = next(iter(self.records.values()))
        return tuple(values.tobytes() for values in (first.file, first.image, first.clean, first.given))


def pages(tracks: Sequence[Track]) -> Iterator[list[Track]]:
    """The runs that share a figure: those of the same faces, a few at a time."""
    alike: dict[tuple[bytes, ...], list[Track]] = defaultdict(list)
    for track in tracks:
        alike[track.faces].append(track)
    for group in alike.values():
        yield from (group[start : start + _MOST_RUNS] for start in range(0, len(group), _MOST_RUNS))


def cam_grid(tracks: Sequence[Track], shown: Shown) -> Figure:
    """Rows of faces, a pair of face and mirror image in every epoch of every run.

    A network whose attention is consistent makes of a pair a picture that is symmetric about its middle. Maps are
    stretched each for itself, so that colors compare places within a face only. Wrong labels come first.

    Args:
        tracks: runs that show the same faces.
        shown: whose map is laid over both: the class predicted of the face, its given, or its true label.
    """
    faces = _chosen(next(iter(tracks[0].records.values())))
    count = _MOST_COLUMNS // len(tracks)
    epochs = [_spread_out([*track.records], count) for track in tracks]
    width = _LEFT + sum(map(len, epochs)) * _PAIR + (len(tracks) - 1) * _GAP_OF_RUNS + _MARGIN
    width = max(width, _LEAST_WIDTH)
    spans = [len(chosen) * _PAIR - _GAP for chosen in epochs]
    room = spans if tracks[1:] else [width - _LEFT - _MARGIN]
    titles = [wrap(track.title, inches, 7) for track, inches in zip(tracks, room, strict=True)]
    top = _TITLE + _LINE * max(title.count("\n") + 1 for title in titles)
    head = top + _EPOCHS
    sheet = Sheet(width, head + len(faces) * _PITCH + _FOOT)
    words = _epochs_in_words(epoch for chosen in epochs for epoch in chosen)
    title = f"CAM of the {shown} label {words} · {len(faces)} faces, each beside its mirror image"
    sheet.text(_MARGIN, 0.06, title, 8, width=width)
    for row, face in enumerate(faces):
        _caption_face(sheet, head + row * _PITCH, tracks[0], face)
    x = _LEFT
    for track, chosen, name, inches in zip(tracks, epochs, titles, spans, strict=True):
        sheet.text(x, top, name, 7, verticalalignment="bottom")
        sheet.line(x, top + 0.03, inches)
        for epoch in chosen:
            sheet.text(x + _FACE, top + 0.08, f"epoch {epoch + 1}", 7, horizontalalignment="center")
            _draw_column(sheet, x, head, track, track.records[epoch], faces, shown)
            x += _PAIR
        x += _GAP_OF_RUNS
    _explain_signs(sheet, head + len(faces) * _PITCH + 0.03)
    return sheet.figure


def _epochs_in_words(epochs: Iterable[int]) -> str:
    numbers = span(epoch + 1 for epoch in epochs)
    return f"after epoch {numbers}" if numbers.isdigit() else f"after epochs {numbers}"


def _chosen(record: CamRecord) -> NDArray[np.int64]:
    """Faces to show: wrong labels, then right ones of the training split, then those of the test split."""
    rank = np.where(record.given != record.clean, 0, np.where(record.split == "train", 1, 2))
    return np.argsort(rank, kind="stable")[:_MOST_FACES]


def _spread_out(epochs: Sequence[int], count: int) -> list[int]:
    """Choose a limited number of epochs, evenly spread, with the first and the last."""
    places = np.linspace(0, len(epochs) - 1, min(count, len(epochs))).round().astype(int)
    return [epochs[place] for place in places]


def _draw_column(
    sheet: Sheet, x: float, head: float, track: Track, record: CamRecord, faces: NDArray[np.int64], shown: Shown
) -> None:
    predicted = record.probabilities.argmax(1)
    label = {"predicted": predicted, "given": record.given, "true": record.clean}[shown]
    image = torch.from_numpy(record.image[faces])
    cam, mirrored = (torch.from_numpy(maps[faces, label[faces]]) for maps in (record.cam, record.mirrored_cam))
    pictures, mirror_images = (
        overlay(*pair, color_map=_HEAT).numpy() for pair in ((image, cam), (image.flip(-1), mirrored))
    )
    for row, face in enumerate(faces):
        y = head + row * _PITCH
        sheet.picture(x, y, _FACE, pictures[row])
        sheet.picture(x + _FACE + _SEAM, y, _FACE, mirror_images[row])
        verdict = _verdict(predicted[face], record.given[face], record.clean[face])
        name = shorten(track.class_names[predicted[face]], _PAIR - 0.25, _SIZE)
        caption = f"{verdict.sign} {name} {record.probabilities[face].max():.2f}"
        sheet.text(x + _FACE, y + _FACE + 0.02, caption, _SIZE, color=verdict.color, horizontalalignment="center")


def _caption_face(sheet: Sheet, y: float, track: Track, face: int) -> None:
    record = next(iter(track.records.values()))
    clean, given = track.class_names[record.clean[face]], track.class_names[record.given[face]]
    lines = [(clean, "black"), ("training" if record.split[face] == "train" else "test", _OTHER.color)]
    if given != clean:
        lines.insert(1, (f"given: {given}", _MEMORIZED.color))
    for number, (text, color) in enumerate(lines):
        sheet.text(_MARGIN, y + 0.02 + 0.11 * number, text, 6.5, width=_LEFT - _MARGIN, color=color)


def _explain_signs(sheet: Sheet, y: float) -> None:
    sheet.text(_LEFT, y, "Below each pair: predicted label and its probability", 7)
    x, y = _LEFT, y + 0.14
    for verdict in (_RIGHT, _MEMORIZED, _OTHER):
        text = f"{verdict.sign} {verdict.meaning}"
        sheet.text(x, y, text, 7, color=verdict.color)
        x += len(text) * 7 * POINT * 0.55 + 0.1
    sheet.bar(x, y + 0.02, 0.5, 0.07, _HEAT)
    sheet.text(x + 0.55, y, "least to most of each map", 7)


def _verdict(predicted: int, given: int, clean: int) -> _Verdict:
    if predicted == clean:
        return _RIGHT
    return _MEMORIZED if predicted == given else _OTHER
