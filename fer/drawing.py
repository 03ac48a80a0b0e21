"""Small pictures for TensorBoard: images in rows with captions, and a confusion matrix.

Drawn with Pillow: a figure of matplotlib takes a quarter of a second, which training would have to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_TEXT = (30, 30, 30)
_SIZE = 12
"""Of letters, in pixels."""
_GAP = 4
_CELL = 46
_MOST_NUMBERED = 12
"""Classes up to which a confusion matrix has numbers and names."""
_LARGEST_MATRIX = 560
_FULL = np.array([8, 48, 107])
"""Colour of a share of 1; a share of 0 is white."""


def rows_of_images(
    images: NDArray[np.uint8], row_names: Sequence[str], column_names: Sequence[str], new_group: Sequence[int] = ()
) -> Image.Image:
    """R rows of C images, a name before every row and above every column; names may have several lines.

    Args:
        images: RGB (R, C, 3, h, w), R and C at least 1.
        row_names, column_names: R and C of them.
        new_group: columns that stand off from the one before.
    """
    _, _, _, height, width = images.shape
    side = _widest(row_names) + 2 * _GAP
    top = _line_height() * max(name.count("\n") + 1 for name in column_names) + 2 * _GAP
    offsets = [
        column * (width + _GAP) + 3 * _GAP * sum(first <= column for first in new_group)
        for column in range(len(column_names))
    ]
    picture = Image.new("RGB", (side + offsets[-1] + width + _GAP, top + len(row_names) * (height + _GAP)), "white")
    pen = ImageDraw.Draw(picture)
    for name, offset in zip(column_names, offsets, strict=True):
        pen.multiline_text((side + offset, _GAP), name, _TEXT, _font())
    for row, name in enumerate(row_names):
        y = top + row * (height + _GAP)
        pen.multiline_text((_GAP, y), name, _TEXT, _font())
        for column, offset in enumerate(offsets):
            picture.paste(Image.fromarray(images[row, column].transpose(1, 2, 0)), (side + offset, y))
    return picture


def confusion_matrix(counts: NDArray[np.int64], class_names: Sequence[str], title: str) -> Image.Image:
    """Rows are labels, columns predictions; a cell shows and is coloured by its share of the row, in percent.

    Args:
        counts: (K, K) of label and prediction. A row without samples stays white.
        class_names: K of them, left out with the numbers where there are more than twelve.
        title: a line above.
    """
    classes = len(counts)
    support = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(support, 1)
    is_numbered = classes <= _MOST_NUMBERED
    cell = _CELL if is_numbered else max(2, _LARGEST_MATRIX // classes)
    names = [f"{name} ({count})" for name, count in zip(class_names, support[:, 0], strict=True)] if is_numbered else []
    side = max(_widest(names), _widest(["label"])) + 3 * _GAP
    top = 2 * (_line_height() + _GAP) + (_widest(class_names) if is_numbered else 0) + 2 * _GAP
    size = classes * cell
    picture = Image.new("RGB", (max(side + size + _GAP, _widest([title]) + 2 * _GAP), top + size + _GAP), "white")
    colours = np.rint(255 + shares[:, :, None] * (_FULL - 255)).astype(np.uint8)
    picture.paste(Image.fromarray(colours).resize((size, size), Image.Resampling.NEAREST), (side, top))
    pen = ImageDraw.Draw(picture)
    pen.text((_GAP, _GAP), title, _TEXT, _font())
    pen.text((side, 2 * _GAP + _line_height()), "predicted", _TEXT, _font())
    pen.text((_GAP, top - _line_height() - _GAP), "label", _TEXT, _font())
    pen.rectangle((side - 1, top - 1, side + size, top + size), outline=_TEXT)
    for row, name in enumerate(names):
        middle = top + row * cell + cell // 2
        pen.text((side - 2 * _GAP, middle), name, _TEXT, _font(), anchor="rm")
        upright = _upright(class_names[row])
        picture.paste(upright, (side + row * cell + (cell - upright.width) // 2, top - _GAP - upright.height))
        for column in range(classes):
            share = shares[row, column]
            colour = "white" if share > 0.5 else _TEXT
            centre = (side + column * cell + cell // 2, middle)
            pen.text(centre, f"{100 * share:.0f}" if counts[row, column] else "·", colour, _font(), anchor="mm")
    return picture


def _upright(text: str) -> Image.Image:
    """A line of text that is read from below."""
    line = Image.new("RGB", (_widest([text]), _line_height()), "white")
    ImageDraw.Draw(line).text((0, 0), text, _TEXT, _font())
    return line.transpose(Image.Transpose.ROTATE_90)


def _widest(texts: Sequence[str]) -> int:
    lines = [line for text in texts for line in text.split("\n")]
    return max((round(_font().getlength(line)) + 1 for line in lines), default=0)


def _line_height() -> int:
    ascent, descent = _font().getmetrics()
    return ascent + descent + 1


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it has the letters of most languages that classes are named in."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _SIZE)
