"""Numbers without rounding noise, so that one ratio has one name."""

from __future__ import annotations

import math
from typing import Any


def tidy(value: Any) -> Any:
    """Remove rounding noise from a value or from all values of containers: 0.30000000000000004 becomes 0.3.

    Hydra's ``range(0.1,0.4,0.1)`` makes such numbers. Others keep all their digits.
    """
    if isinstance(value, float) and math.isfinite(value):
        short = float(f"{value:.12g}")
        return short if abs(short - value) <= 4 * math.ulp(value) else value
    if isinstance(value, dict):
        return {key: tidy(inner) for key, inner in value.items()}
    return [tidy(inner) for inner in value] if isinstance(value, list) else value
