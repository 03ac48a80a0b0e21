"""Batch of faces, passed from the loader through augmentation to the method."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch of B faces.

    ``image`` is uint8 (B, 3, h, w) in RGB as the loader gives it, and the method's float view (B, 3, H, W) or pair of
    views after augmentation. The others are int64 (B,).
    """

    image: Tensor | tuple[Tensor, Tensor]
    label: Tensor
    """The given label, 0..K-1, which may be wrong."""
    clean_label: Tensor
    """The true label, 0..K-1, or -1 where it is not known."""
    index: Tensor  # type: ignore[assignment]  # tuples have a method of that name, which nobody needs here
    """Position of the sample in its split of the sample table."""
