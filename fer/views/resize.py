"""Bilinear resizing of uint8 batches, bit for bit as Pillow's, of whole images and of one rectangle in each."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

_BITS = 22  # Pillow's fixed-point resampling: 32 bits less 8 for the pixel and 2 for head room.


def resize(image: Tensor, size: int) -> Tensor:
    """Resize square uint8 images (B, 3, h, h) to (B, 3, size, size).

    Enlarging interpolates between two pixels; shrinking averages over all that fall under the filter.
    """
    if image.shape[-2:] == (size, size):
        return image
    # Not torch's kernel, whose 16-bit weights put some pixels one gray level off. Columns come first, as in Pillow;
    # whole rows are quicker to gather, hence the transposed copies.
    return _resize_rows(_resize_rows(image.mT.contiguous(), size).mT.contiguous(), size)


def resized_crop(image: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    """Cut a rectangle out of each uint8 image (B, 3, h, w) and resize it to (B, 3, size, size).

    Args:
        image: the images.
        top, left, height, width: whole numbers, (B,) each; the rectangles lie inside the images.
        size: edge length of the result.
    """
    columns = _rows_between(image.mT, left, width, size)
    return _rows_between(columns.mT, top, height, size)


def _resize_rows(image: Tensor, size: int) -> Tensor:
    """Resize uint8 (B, 3, h, w) to (B, 3, size, w) by sums of integers."""
    rows, weights = _filter_of_all(image.shape[-2], size, image.device)
    sums = _half_a_unit((*image.shape[:-2], size, image.shape[-1]), image.device)
    for row, weight in zip(rows, weights, strict=True):
        sums.addcmul_(image.index_select(-2, row), weight)
    return sums.bitwise_right_shift_(_BITS).to(torch.uint8)


def _rows_between(image: Tensor, start: Tensor, length: Tensor, size: int) -> Tensor:
    """Resize rows ``start`` to ``start + length`` of each uint8 image (B, 3, h, w) to (B, 3, size, w)."""
    taps = 2 * math.ceil(max(image.shape[-2] / size, 1.0)) + 1
    rows, weights = _filter(length.double(), size, taps)  # (T, B, size)
    rows = rows.clamp(max=image.shape[-2] - 1) + start[:, None].long()
    rows = rows.clamp(max=image.shape[-2] - 1)  # for taps without weight
    shape = (*image.shape[:-2], size, image.shape[-1])
    sums = _half_a_unit(shape, image.device)
    for row, weight in zip(rows, weights, strict=True):
        sums.addcmul_(image.gather(-2, row[:, None, :, None].expand(shape)), weight[:, None, :, None])
    return sums.bitwise_right_shift_(_BITS).to(torch.uint8)


def _half_a_unit(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Sums to begin with, so that the shift rounds."""
    return torch.full(shape, 2 ** (_BITS - 1), dtype=torch.int32, device=device)


@functools.cache
def _filter_of_all(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Filter of whole images: rows (T, new) to add up, weights (T, new, 1)."""
    taps = 2 * math.ceil(max(old / new, 1.0)) + 1
    rows, weights = (part[:, 0] for part in _filter(torch.tensor([float(old)], dtype=torch.float64), new, taps))
    used = weights.any(1)
    return rows[used].clamp(max=old - 1).to(device), weights[used, :, None].to(device)


def _filter(old: Tensor, new: int, taps: int) -> tuple[Tensor, Tensor]:
    """Triangle filter from lengths ``old`` (B,) to ``new``: rows and weights times 2**22, (taps, B, new)."""
    scale = old[:, None] / new
    radius = scale.clamp(min=1.0)
    center = (torch.arange(new, dtype=torch.float64, device=old.device) + 0.5) * scale
    first = (center - radius + 0.5).clamp(min=0).floor()
    rows = first + torch.arange(taps, dtype=torch.float64, device=old.device)[:, None, None]
    triangle = (1 - ((rows - center + 0.5) / radius).abs()).clamp(min=0).masked_fill(rows >= old[:, None], 0)
    weights = torch.floor(triangle / triangle.sum(0) * 2**_BITS + 0.5).to(torch.int32)
    return rows.long(), weights
