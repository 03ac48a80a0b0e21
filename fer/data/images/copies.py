"""Copies of one picture in a data set, also re-encoded or mirrored ones, and pictures that show nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer.data.table import IntArray

_MOST_BITS = 6
"""Bits of the 64-bit perceptual hash that candidates may differ in; re-encoded copies differ in at most 4."""
_LEAST_CORRELATION = 0.96
"""Correlation of gray values: different aligned faces stay below 0.94, copies of JPEG quality 70 above 0.97."""
_LEAST_SPREAD = 2.0
"""Standard deviation of gray values below which a picture shows nothing."""
_BLOCK = 512

Images = NDArray[np.uint8]


class Copy(NamedTuple):
    """Two rows that show one picture."""

    row: int
    of: int
    is_mirrored: bool


def constant_images(images: Images, rows: IntArray) -> IntArray:
    """Find the pictures that show nothing.

    Args:
        images: uint8 (N, 3, size, size).
        rows: which of them to look at.
    """
    return np.array([row for row in rows.tolist() if float(_gray(images[row]).std()) < _LEAST_SPREAD], dtype=np.int64)


def find_copies(images: Images, rows: IntArray, among: IntArray) -> list[Copy]:
    """Find pictures among others, by the perceptual hash of ``imagehash`` and then by their gray values.

    Args:
        images: uint8 (N, 3, size, size).
        rows: pictures that are looked for, as they are and mirrored.
        among: pictures that may be copies of them; of two rows in both, the later one is the copy.
    """
    found: dict[tuple[int, int], bool] = {}
    kept = _hashes(images, among, mirrored=False)
    is_same = bool(np.array_equal(rows, among))
    for mirrored in (False, True):
        hashes = kept if is_same and not mirrored else _hashes(images, rows, mirrored=mirrored)
        for place, other in _near(hashes, kept):
            row, of = int(rows[place]), int(among[other])
            if row == of or (is_same and row < of) or (row, of) in found:
                continue
            if _correlation(images[row], images[of], mirrored=mirrored) >= _LEAST_CORRELATION:
                found[row, of] = mirrored
    return [Copy(row, of, mirrored) for (row, of), mirrored in sorted(found.items())]


def _hashes(images: Images, rows: IntArray, *, mirrored: bool) -> NDArray[np.uint64]:
    step = -1 if mirrored else 1
    pictures = (Image.fromarray(images[row, :, :, ::step].transpose(1, 2, 0)) for row in rows.tolist())
    bits = np.array([imagehash.phash(picture).hash.reshape(-1) for picture in pictures], dtype=np.bool_)
    return np.packbits(bits.reshape(len(rows), 64), axis=1).view(np.uint64)[:, 0]


def _near(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Places of hashes that differ in few bits."""
    for start in range(0, len(hashes), _BLOCK):
        differing = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ others)
        for place, other in np.argwhere(differing <= _MOST_BITS).tolist():
            yield start + place, other


def _correlation(image: NDArray[np.uint8], other: NDArray[np.uint8], *, mirrored: bool) -> float:
    first, second = _gray(image), _gray(other)
    if mirrored:
        first = first[:, ::-1]
    if min(first.std(), second.std()) < _LEAST_SPREAD:
        return 0.0
    return float(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1])


def _gray(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    weights = np.array([0.299, 0.587, 0.114])
    return np.tensordot(weights, image.astype(np.float64), axes=1)
