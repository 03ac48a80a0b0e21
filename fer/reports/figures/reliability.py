"""Reliability diagrams: accuracy by confidence (Guo et al., ICML 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fer.methods.core.metrics import CALIBRATION_BINS
from fer.reports.figures.style import COLORS, wrap
from fer.runs.predictions import SplitTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACCURACY, _CONFIDENCE = COLORS[5], COLORS[1]


class Reliability(NamedTuple):
    """Statistics of each bin of confidence, (CALIBRATION_BINS,), as in ``test/ece``; means of empty bins are NaN."""

    number: NDArray[np.int64]
    confidence: NDArray[np.float64]
    """Mean, 0..1."""
    accuracy: NDArray[np.float64]
    """0..1."""

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1: mean distance of confidence and accuracy, weighted by number."""
        gaps = np.nan_to_num(np.abs(self.confidence - self.accuracy))
        return float((gaps * self.number).sum() / self.number.sum())


def reliability(split: SplitTable) -> Reliability:
    """Bins of equal width over 0..1; the last one holds 1 too."""
    bins = np.minimum((split.confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    number, confidence, correct = (
        np.bincount(bins, weights=weights, minlength=CALIBRATION_BINS)
        for weights in (None, split.confidence, split.predicted == split.clean)
    )
    with np.errstate(invalid="ignore"):
        return Reliability(number, confidence / number, correct / number)


def reliability_figure(split: SplitTable, title: str) -> Figure:
    """Accuracy by confidence above the distribution of confidences."""
    from matplotlib.figure import Figure

    found = reliability(split)
    width = 1 / CALIBRATION_BINS
    edges = np.arange(CALIBRATION_BINS) * width
    bars: dict[str, Any] = {"align": "edge", "linewidth": 0.6}
    accuracy, confidence = (split.predicted == split.clean).mean(), split.confidence.mean()
    figure = Figure(figsize=(3.5, 4.7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
    upper.bar(
        edges,
        found.accuracy,
        width,
        color=_ACCURACY,
        edgecolor="black",
        label=f"accuracy in {CALIBRATION_BINS} bins, {100 * accuracy:.1f} % in all",
        **bars,
    )
    upper.bar(
        edges,
        found.confidence - found.accuracy,
        width,
        bottom=found.accuracy,
        fill=False,
        edgecolor=_CONFIDENCE,
        hatch="////",
        label=f"distance to the mean confidence, ECE {100 * found.ece:.1f} %",
        **bars,
    )
    upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfectly calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    lower.bar(edges, 100 * found.number / len(split), width, color="#bbbbbb", edgecolor="black", **bars)
    lower.set(xlabel="confidence", ylabel="% of faces")
    figure.legend(loc="outside lower left", frameon=False)
    facts = f"test split, n = {len(split):,}, mean confidence {100 * confidence:.1f} %"
    figure.suptitle("\n".join(wrap(text, 3.4, 8) for text in (title, facts)), fontsize=8, x=0.02, ha="left")
    return figure
