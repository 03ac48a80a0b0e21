"""Small pictures for TensorBoard: images in rows with captions, and a confusion matrix.

Training waits for them, and a figure of matplotlib takes a quarter of a second. A picture is put together from pieces
with Pillow instead: a word is drawn once and then copied, and so is a cell of the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_TEXT = (30, 30, 30)
_SIZE = 12
"""Size of letters, pixels."""
_GAP = 4
_CELL = 46
_MOST_NUMBERED = 12
"""Classes up to which a confusion matrix has numbers and names."""
_NONE = "·"
"""Text of a cell without samples."""
_LARGEST_MATRIX = 560
_FULL = np.array([8, 48, 107])
"""Color of a share of 1; a share of 0 is white."""

Pixels = NDArray[np.uint8]
"""RGB (h, w, 3)."""


def rows_of_images(
    images: NDArray[np.uint8], row_names: Sequence[str], column_names: Sequence[str], new_group: Sequence[int] = ()
) -> Pixels:
    """R rows of C images, a name before every row and above every column; names may have several lines.

    Args:
        images: RGB (R, C, 3, h, w), R and C at least 1.
        row_names, column_names: R and C of them.
        new_group: columns that stand off from the one before.
    """
    rows, columns, _, height, width = images.shape
    side = _widest(row_names) + 2 * _GAP
    top = _line_height() * max(name.count("\n") + 1 for name in column_names) + 2 * _GAP
    offsets = [
        side + column * (width + _GAP) + 3 * _GAP * sum(first <= column for first in new_group)
        for column in range(columns)
    ]
    picture = _blank(top + rows * (height + _GAP), offsets[-1] + width + _GAP)
    in_rows = picture[top:].reshape(rows, height + _GAP, -1, 3)
    for column, (name, x) in enumerate(zip(column_names, offsets, strict=True)):
        _write(picture, x, _GAP, name)
        tiles = in_rows[:, :height, x : x + width]
        for color in range(3):  # one after the other: numpy would copy three bytes at a time
            tiles[..., color] = images[:, column, color]
    for row, name in enumerate(row_names):
        _write(picture, _GAP, top + row * (height + _GAP), name)
    return picture


def confusion_matrix(counts: NDArray[np.int64], class_names: Sequence[str], title: str) -> Pixels:
    """Rows are labels, columns predictions; a cell shows and is colored by its share of the row, in percent.

    Args:
        counts: (K, K) of label and prediction. A row without samples stays white.
        class_names: K of them, left out with the numbers where there are more than twelve.
        title: a line above.
    """
    classes = len(counts)
    support = counts.sum(1, keepdims=True)
    percents = np.rint(100 * counts / np.maximum(support, 1)).astype(int)
    is_numbered = classes <= _MOST_NUMBERED
    cell = _CELL if is_numbered else max(2, _LARGEST_MATRIX // classes)
    names = [f"{name} ({count})" for name, count in zip(class_names, support[:, 0], strict=True)] if is_numbered else []
    side = max(_widest(names), _widest(["label"])) + 3 * _GAP
    top = 2 * (_line_height() + _GAP) + (_widest(class_names) if is_numbered else 0) + 2 * _GAP
    size = classes * cell
    picture = _blank(top + size + _GAP, max(side + size + _GAP, _widest([title]) + 2 * _GAP))
    frame = picture[top - 1 : top + size + 1, side - 1 : side + size + 1]
    for edge in (frame[0], frame[-1], frame[:, 0], frame[:, -1]):
        edge[:] = _TEXT
    matrix = frame[1:-1, 1:-1]
    _write(picture, _GAP, _GAP, title)
    _write(picture, side, 2 * _GAP + _line_height(), "predicted")
    _write(picture, _GAP, top - _line_height() - _GAP, "label")
    if not is_numbered:
        matrix[:] = _colors(percents).repeat(cell, 0).repeat(cell, 1)
        return picture
    for row, name in enumerate(names):
        middle = row * cell + cell // 2
        _write(picture, side - 2 * _GAP - _widest([name]), top + middle - _line_height() // 2, name)
        upright = np.rot90(_line(class_names[row]))
        _lay(picture, side + middle - upright.shape[1] // 2, top - _GAP - upright.shape[0], upright)
        for column, percent in enumerate(percents[row].tolist()):
            number = str(percent) if counts[row, column] else _NONE
            _lay(matrix, column * cell, row * cell, _numbered_cell(number, percent))
    return picture


def draw_ahead(texts: Sequence[str]) -> None:
    """Draw the words of texts and all cells of a matrix, so that pictures need only be put together of them."""
    _widest(texts)
    for percent in range(101):
        _numbered_cell(str(percent), percent)
    _numbered_cell(_NONE, 0)


def _blank(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), 255, np.uint8)


def _lay(picture: Pixels, x: int, y: int, piece: Pixels) -> None:
    """Lay a piece over a picture, as far as that goes."""
    part = picture[y : y + piece.shape[0], x : x + piece.shape[1]]
    part[:] = piece[: part.shape[0], : part.shape[1]]


def _write(picture: Pixels, x: int, y: int, text: str) -> None:
    for number, line in enumerate(text.split("\n")):
        if line:  # an empty piece keeps the picture below
            _lay(picture, x, y + number * _line_height(), _line(line))


def _line(text: str) -> Pixels:
    line = _blank(_line_height(), max(1, _widest([text])))
    x = 0
    for word in text.split(" "):
        _lay(line, x, 0, _word(word))
        x += _word(word).shape[1] + _space()
    return line


def _colors(percents: NDArray[np.int64]) -> Pixels:
    """RGB (..., 3) of shares of a row."""
    colors: Pixels = np.rint(255 + percents[..., None] / 100 * (_FULL - 255)).astype(np.uint8)
    return colors


@lru_cache(1024)
def _word(text: str) -> Pixels:
    word = Image.new("RGB", (max(1, round(_font().getlength(text))), _line_height()), "white")
    ImageDraw.Draw(word).text((0, 0), text, _TEXT, _font())
    return np.asarray(word)


@lru_cache(1024)
def _numbered_cell(number: str, percent: int) -> Pixels:
    red, green, blue = _colors(np.array(percent)).tolist()
    cell = Image.new("RGB", (_CELL, _CELL), (red, green, blue))
    ink = "white" if percent > 50 else _TEXT
    ImageDraw.Draw(cell).text((_CELL // 2, _CELL // 2), number, ink, _font(), anchor="mm")
    return np.asarray(cell)


def _widest(texts: Sequence[str]) -> int:
    lines = [line.split(" ") for text in texts for line in text.split("\n")]
    return max((sum(_word(word).shape[1] + _space() for word in words) - _space() for words in lines), default=0)


@cache
def _space() -> int:
    return round(_font().getlength(" "))


@cache
def _line_height() -> int:
    ascent, descent = _font().getmetrics()
    return ascent + descent + 1


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it has the letters of most languages that classes are named in."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _SIZE)
