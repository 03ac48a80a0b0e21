"""Choice of the faces that a run shows while it trains: a few of every class, chosen by their labels alone."""

from __future__ import annotations

import numpy as np

from fer.data.table import IntArray

_TEST_FACES = 8
_MOST_TEST_FACES = 10
_MOST_WRONG_LABELS = 7


def shown_test_faces(labels: IntArray) -> IntArray:
    """Choose about eight positions in the test split, equally many of each class if there are few classes.

    Args:
        labels: of the test split, (n,).
    """
    classes = max(1, len(np.unique(labels)))
    count = min(classes * max(1, _TEST_FACES // classes), _MOST_TEST_FACES)
    return _by_class(_in_turns(labels)[:count], labels)


def shown_wrong_labels(clean: IntArray, given: IntArray, trained: IntArray) -> IntArray:
    """Choose up to seven training faces with wrong labels, of different classes, as positions in the split.

    Args:
        clean: true labels of the training split, (n,), -1 where unknown.
        given: labels in force, (n,).
        trained: positions that are trained on; others are held out.
    """
    wrong = np.zeros(len(clean), dtype=bool)
    wrong[trained] = True
    wrong &= (clean >= 0) & (clean != given)
    candidates = np.flatnonzero(wrong)
    return _by_class(candidates[_in_turns(clean[candidates])[:_MOST_WRONG_LABELS]], clean)


def evenly_spread(positions: IntArray, most: int) -> IntArray:
    """Pick at most ``most`` of the positions, evenly spread."""
    count = min(most, len(positions))
    return positions[np.arange(count) * len(positions) // max(1, count)]


def _in_turns(labels: IntArray) -> IntArray:
    """Positions (n,): the first of every class, then the second of every class, and so on."""
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    return np.lexsort((labels, turn))


def _by_class(positions: IntArray, labels: IntArray) -> IntArray:
    return positions[np.argsort(labels[positions], kind="stable")]
