"""Names of metrics, protocols, keys and values in reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

METRICS = {
    "test/acc": "accuracy",
    "test/macro_acc": "mean class accuracy",
    "test/f1": "macro F1",
    "test/ece": "calibration error (ECE)",
    "memorized": "memorized",
    "recovered": "recovered",
    "best": "best test epoch (optimistic)",
    "train/memorized": "memorized, during training",
}


def images_left_out(result: Mapping[str, Any]) -> str:
    """Say how many images a finished run has left out; empty if it has used all."""
    counts = result.get("skipped_images", {})
    numbers = " and ".join(f"{count:,} {split}" for split, count in counts.items())
    return f"{numbers} images that cannot be decoded" if any(counts.values()) else ""


def metric_name(key: str) -> str:
    return METRICS.get(key, key)


def percent(share: float) -> str:
    """Write a share in percent; a dash if it is undefined, such as the recall of a class without test samples."""
    return "–" if math.isnan(share) else f"{100 * share:.2f}"


def spell(value: Any) -> str:
    """A value of the configuration as one gives it on the command line."""
    if isinstance(value, str):
        return value
    return f"{value:.12g}" if isinstance(value, float) else json.dumps(value)


def labeled(key: str, value: Any) -> str:
    """``eac`` for the option of a group, ``noise.ratio=0.3`` for any other key."""
    return value if isinstance(value, str) and "." not in key else f"{key}={spell(value)}"


def matches(value: Any, text: str) -> bool:
    """Tell whether ``text`` on the command line means ``value``: numbers by size, everything else by spelling."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return spell(value) == text
