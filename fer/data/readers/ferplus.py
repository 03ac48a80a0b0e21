"""FERPlus: FER2013's faces, labeled by ten votes each.

Source: Barsoum et al., "Training deep networks for facial expression recognition with crowd-sourced label
distribution", ICMI 2016; rules of majority as in github.com/microsoft/FERPlus.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fer.data.readers.fer2013 import TestSplit, split_of
from fer.data.readers.ferplus_layouts import CLASS_NAMES, COLUMNS, read_layout
from fer.data.table import DatasetError, IntArray, SampleTable

Rule = Literal["majority", "argmax"]


def read(
    root: str | Path,
    *,
    cache: str | Path,
    rule: Rule = "majority",
    classes: Literal[7, 8] = 7,
    test_split: TestSplit = "PrivateTest",
    train_on_other_split: bool = False,
) -> SampleTable:
    """Read FERPlus, labeled by its votes.

    ``votes`` of the table holds the shares of the classes; ``other_labels["fer2013"]`` FER2013's own label.

    Args:
        root: folder in one of the three layouts of ``ferplus_layouts``.
        cache: folder in which pictures of a CSV file are unpacked.
        rule: how votes become a label, see ``labels_of``.
        classes: 8, or 7 without Contempt.
        test_split: ``PrivateTest``, or ``PublicTest``.
        train_on_other_split: add the split that is not tested to the training set.

    Raises:
        DatasetError: with every fault of the lists.
    """
    root = Path(root).expanduser()
    found = read_layout(root, Path(cache))
    if found.faults:
        raise DatasetError(root, found.faults)
    names = CLASS_NAMES[:classes]
    labels, shares = labels_of(np.array(found.counts, np.int64).reshape(-1, COLUMNS), rule, classes)
    own = np.array(found.own_labels, np.int64)
    own[own >= classes] = -1
    in_train, in_test = split_of(np.array(found.usages), test_split, train_on_other_split)
    used = np.concatenate([np.flatnonzero(split & (labels >= 0)) for split in (in_train, in_test)])
    return SampleTable(
        name="ferplus",
        root=root,
        paths=tuple(found.paths[row] for row in used),
        labels=labels[used],
        is_train=in_train[used],
        class_names=names,
        names=tuple(found.names[row] for row in used),
        places=tuple(found.places[row] for row in used),
        warnings=tuple(found.warnings),
        votes=shares[used],
        other_labels={"fer2013": own[used]} if (own >= 0).any() else {},
    )


def labels_of(counts: IntArray, rule: Rule, classes: int) -> tuple[IntArray, NDArray[np.float64]]:
    """Make labels of votes.

    Args:
        counts: votes (M, 10), of the eight classes, unknown and not a face.
        rule: ``majority``, microsoft's: a single vote counts nothing, and the winner needs more than half of what is
            left; ``argmax``: the most votes win, of equals the first column.
        classes: K, 7 or 8.

    Returns:
        labels (M,), -1 where unknown, not a face, a class left out, or nobody wins; and the shares of the votes for
        the K classes (M, K), which sum to 1 wherever there is a label.
    """
    counted = np.where(counts <= 1, 0, counts) if rule == "majority" else counts
    winner = counted.argmax(1)
    most, total = counted.max(1), counted.sum(1)
    wins = (2 * most > total) if rule == "majority" else (most > 0)
    labels = np.where(wins & (winner < classes), winner, -1).astype(np.int64)
    of_classes = counted[:, :classes]
    return labels, of_classes / np.maximum(of_classes.sum(1, keepdims=True), 1)
