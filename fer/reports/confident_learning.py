"""Wrong labels found by confident learning, from probabilities of networks that did not train on the labels.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021: the
confident joint (section 3.1) and pruning by noise rate (section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer.data.table import IntArray

Probabilities = NDArray[np.float64]

_TIE = 1e-6
"""Room below a class's threshold, for rounded probabilities."""


@dataclass(frozen=True, eq=False)
class WrongLabels:
    """Labels that are probably wrong, the surest first."""

    positions: IntArray
    """(m,), among the n samples."""
    suggested: IntArray
    """Most probable class of each, (m,)."""
    margins: Probabilities
    """Probability of the given label less that of the suggested one, (m,), in [-1, 0)."""
    expected: IntArray
    """Estimated number of samples of class j with given label i, (K, K) in [i, j]."""


def find_wrong_labels(given: IntArray, probabilities: Probabilities) -> WrongLabels:
    """Find labels that are probably wrong.

    For each pair of a given label i and another class j, as many samples as the confident joint estimates for it are
    wrong: those with the largest p_j - p_i. A label that is the most probable one is never wrong.

    Args:
        given: labels, (n,) in 0..K-1.
        probabilities: (n, K), of networks that have not seen the sample's label.
    """
    expected = estimated_joint(given, probabilities)
    is_wrong = np.zeros(len(given), dtype=np.bool_)
    for i in range(len(expected)):
        members = np.flatnonzero(given == i)
        for j in np.flatnonzero(expected[i]):
            if i != j:
                margins = probabilities[members, j] - probabilities[members, i]
                is_wrong[members] |= margins >= np.sort(margins)[-expected[i, j]]
    suggested = probabilities.argmax(axis=1)
    is_wrong &= suggested != given
    rows = np.arange(len(given))
    margins = probabilities[rows, given] - probabilities[rows, suggested]
    found = np.flatnonzero(is_wrong)
    found = found[np.argsort(margins[found], kind="stable")]
    return WrongLabels(found, suggested[found].astype(np.int64), margins[found], expected)


def estimated_joint(given: IntArray, probabilities: Probabilities) -> IntArray:
    """Estimate how many samples of each class j have the given label i, (K, K) in [i, j].

    A sample counts as of class j if p_j reaches the mean of p_j over the samples labeled j; if several classes reach
    theirs, as of the most probable class. Rows are scaled to the numbers of given labels.
    """
    size = probabilities.shape[1]
    counts = np.bincount(given, minlength=size)
    sums = np.array([probabilities[given == label, label].sum() for label in range(size)])
    # A class that no label names has no threshold that could be reached.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = probabilities >= thresholds - _TIE
    number = reached.sum(axis=1)
    label = np.where(number > 1, probabilities.argmax(axis=1), reached.argmax(axis=1))
    joint = np.zeros((size, size))
    np.add.at(joint, (given[number > 0], label[number > 0]), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    joint = (joint.T / joint.sum(axis=1) * counts).T
    return np.array([_rounded(row) for row in joint])


def _rounded(row: Probabilities) -> IntArray:
    """Round so that the sum stays: what rounding changed most is undone."""
    whole = np.round(row).astype(np.int64)
    excess = int(whole.sum() - np.round(row.sum()))
    order = np.argsort(row - whole, kind="stable")
    if excess > 0:
        whole[order[:excess]] -= 1
    elif excess < 0:
        whole[order[excess:]] += 1
    return whole
