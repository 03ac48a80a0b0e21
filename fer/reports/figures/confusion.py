"""Confusion matrices of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fer.reports.figures.style import wrap
from fer.runs.predictions import SplitTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = 0.52
"""Edge of a cell in inches."""
_DARK = 0.6
"""Share from which a cell is so dark that its text must be white."""


def confusion_counts(split: SplitTable) -> NDArray[np.int64]:
    """Samples (K, K) by true and by predicted class."""
    size = len(split.class_names)
    return np.bincount(split.clean * size + split.predicted, minlength=size * size).reshape(size, size)


def confusion_figure(counts: Sequence[NDArray[np.int64]], class_names: Sequence[str], title: str) -> Figure:
    """Shares of each true class, in percent, above the counts; of several runs the mean of both.

    Args:
        counts: one matrix (K, K) a run, each of the same test split.
        class_names: K.
        title: what was trained, and with which seeds.
    """
    from matplotlib.figure import Figure

    mean = np.mean(counts, axis=0)
    support = mean.sum(1, keepdims=True)
    shares = np.divide(mean, support, out=np.full_like(mean, np.nan), where=support > 0)
    size = len(class_names)
    edge = _CELL * size
    figure = Figure(figsize=(1.7 + edge, 1.8 + edge), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), share in np.ndenumerate(shares):
        color = "white" if share > _DARK else "black"
        percent = "–" if np.isnan(share) else f"{100 * share:.1f}"
        axes.text(predicted, true + 0.02, percent, color=color, ha="center", va="bottom", fontsize=8)
        count = f"{mean[true, predicted]:.{0 if len(counts) == 1 else 1}f}"
        axes.text(predicted, true + 0.1, count, color=color, ha="center", va="top", fontsize=6)
    axes.set_xticks(range(size), class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), [f"{name} ({n:.0f})" for name, n in zip(class_names, support[:, 0], strict=True)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true (faces)")
    accuracy, of_classes = np.trace(mean) / mean.sum(), np.nanmean(shares.diagonal())
    facts = (
        f"test split, n = {mean.sum():,.0f}, accuracy {100 * accuracy:.1f} %, mean class accuracy "
        f"{100 * of_classes:.1f} %; in % of the true class, faces below"
    )
    lines = [wrap(text, edge + 1.5, 8) for text in (title, facts)]
    figure.suptitle("\n".join(lines), fontsize=8, x=0.02, ha="left")
    return figure
