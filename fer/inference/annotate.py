"""Boxes, expressions and maps drawn into photographs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fer.inference.faces import Photograph
from fer.inference.outputs import ClassifiedFace
from fer.views.heatmaps import heat_colors

_FRAME = (255, 176, 0)
_INK = (0, 0, 0)
_STRENGTH = 0.4


def draw_faces(
    photograph: Photograph, faces: Sequence[ClassifiedFace], transforms: Sequence[NDArray[np.float64]], size: int
) -> Image.Image:
    """The photograph with a frame and ``Happiness 93 %`` for each face, and its map over the part that was cut out.

    Where there are several faces they are numbered, in the order given: ``2: Happiness 93 %``.

    Args:
        photograph: RGB, (height, width, 3).
        faces: with ``cam`` where maps are wanted.
        transforms: from pixels of the photograph to those of each cut-out, (2, 3).
        size: edge length of the cut-outs in pixels.
    """
    image = Image.fromarray(photograph)
    for found, transform in zip(faces, transforms, strict=True):
        if found.cam is not None:
            _lay_over(image, found.cam, transform, size)
    pen = ImageDraw.Draw(image)
    for number, found in enumerate(faces, start=1):
        left, top, width, height = found.face.box
        edge = min(width, *image.size)  # by its width alone, a picture a few pixels high would get huge letters
        line = max(1, round(min(image.size) / 250), round(edge / 100))
        pen.rectangle((left, top, left + width, top + height), outline=_FRAME, width=line)
        text = f"{number}: {found.caption}" if len(faces) > 1 else found.caption
        _label(pen, text, (left, top), max(11.0, edge / 7), image.size)
    return image


def _label(
    pen: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], height: float, limits: tuple[int, int]
) -> None:
    """Write the caption above the frame, or inside it if there is no room."""
    font = ImageFont.load_default(size=height)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0.0, corner[0]), max(0.0, limits[0] - width))
    y = corner[1] - height if corner[1] >= height else max(0.0, corner[1])
    pen.rectangle((x, y, x + width, y + height), fill=_FRAME)
    pen.text((x + 2 - left, y + 2 - top), text, fill=_INK, font=font)


def _lay_over(image: Image.Image, cam: NDArray[np.float32], transform: NDArray[np.float64], size: int) -> None:
    """Draw a map (h, w) where its cut-out came from."""
    left, top, right, bottom = _region(transform, size, image.size)
    if left >= right or top >= bottom:
        return
    # PIL's transform maps each pixel of the region to a position in the cut-out.
    linear = transform[:, :2]
    shift = transform[:, 2] + linear @ (left, top)
    coefficients = np.column_stack([linear, shift]).reshape(-1).tolist()
    heat = heat_colors(torch.from_numpy(cam)[None], size, size)[0].permute(1, 2, 0).numpy()
    place = (right - left, bottom - top), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    mask = Image.new("L", (size, size), round(255 * _STRENGTH)).transform(*place)
    image.paste(Image.fromarray(heat).transform(*place), (left, top), mask)


def _region(transform: NDArray[np.float64], size: int, limits: tuple[int, int]) -> tuple[int, int, int, int]:
    """Compute the left, top, right and bottom of the cut-out in the photograph."""
    linear, shift = transform[:, :2], transform[:, 2]
    corners = np.linalg.solve(linear, (np.array([[0, 0], [0, size], [size, 0], [size, size]]) - shift).T).T
    low, high = np.floor(corners.min(0)), np.ceil(corners.max(0))
    left, top = (int(max(0, value)) for value in low)
    right, bottom = (int(min(limit, value)) for limit, value in zip(limits, high, strict=True))
    return left, top, max(left, right), max(top, bottom)
