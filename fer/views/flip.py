"""Mirroring of images and maps."""

from __future__ import annotations

from torch import Tensor


def mirror(maps: Tensor) -> Tensor:
    """Mirror images or maps (..., w) along their width."""
    return maps.flip(-1)
