"""Numbers with their ranges, for the signatures of constructors that a configuration names.

A signature states the range once, as ``strength: AtLeast0 = 3.0``; ``fer.config.instantiate`` reads it through
``_target_`` and refuses other values before anything is built. A direct call from Python is not checked.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Interval

AtLeast0 = Annotated[float, Ge(0)]
Above0 = Annotated[float, Gt(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
"""0 to 1, both included."""
ShareBelow1 = Annotated[float, Interval(ge=0, lt=1)]
ShareAbove0 = Annotated[float, Interval(gt=0, le=1)]
ShareBetween = Annotated[float, Interval(gt=0, lt=1)]
"""0 to 1, neither included."""
CountFrom0 = Annotated[int, Ge(0)]
CountFrom1 = Annotated[int, Ge(1)]
CountFrom2 = Annotated[int, Ge(2)]
ViewSize = Annotated[int, Interval(ge=8, le=2048)]
"""Edge of a square image in pixels."""

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of ``torch.compile``."""
MOST_PIXELS = 2048
"""Largest edge of a decoded image."""
