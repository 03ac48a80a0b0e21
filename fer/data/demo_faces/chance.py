"""Colors and weighted choice for the parameters of a demo face."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Color = tuple[float, float, float]
"""Red, green and blue in 0..1."""
BLACK: Color = (0.05, 0.03, 0.03)
_T = TypeVar("_T")


def pick(rng: np.random.Generator, weighted: list[tuple[float, _T]]) -> _T:
    """Choose one of the values, with probability proportional to its weight."""
    weights = np.cumsum([weight for weight, _ in weighted])
    return weighted[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))][1]


def mix(first: Color, second: Color, share: float) -> Color:
    """Mix ``share`` (0..1) of ``second`` into ``first``."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue
