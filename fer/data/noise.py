"""Label noise: functions from a sample table to the labels in force of its training rows.

Each function returns int64 (N_train,) in 0..K-1, in the order of ``table.train``. Test labels are out of reach. The
draws depend only on ``seed`` and on the number of training rows: one uniform number per sample decides whether it is
hit, so the samples hit at a lower ratio are among those hit at a higher one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fer.data.table import IntArray, SampleTable
from fer.errors import OtherClasses

ASYMMETRIC_MAPS = {
    "la_net": {
        "surprise": "anger",
        "fear": "surprise",
        "disgust": "anger",
        "happiness": "neutral",
        "sadness": "neutral",
        "anger": "disgust",
        "neutral": "sadness",
    },
    "soft": {
        "surprise": "anger",
        "fear": "surprise",
        "disgust": "anger",
        "happiness": "neutral",
        "sadness": "neutral",
        "anger": "happiness",
        "neutral": "surprise",
    },
}
"""Expression that each one is labeled as, by LA-Net (Wu and Cui, ICCV 2023) and by SOFT (Lee et al., ECCV 2022)."""
_SAME_EXPRESSION = {"happy": "happiness", "sad": "sadness", "angry": "anger"}


def none(table: SampleTable, *, ratio: float = 0.0, seed: int = 0) -> IntArray:
    """Return the labels unchanged.

    Raises:
        ValueError: a ratio other than 0, which needs a kind of noise.
    """
    if ratio != 0:
        raise ValueError(f"noise.ratio={ratio} needs a kind of noise: add noise=symmetric, pair or asymmetric")
    return table.labels[table.train]


def symmetric(table: SampleTable, *, ratio: float, seed: int) -> IntArray:
    """Flip each label with probability ``ratio`` in [0, 1) to one of the other K-1 classes, all equally likely.

    The definition behind the published RAF-DB lists. A sample that is hit at two ratios gets the same wrong label.
    """
    clean = table.labels[table.train]
    hit, target = uniform_numbers(seed, len(clean))
    shift = 1 + (target * (table.num_classes - 1)).astype(np.int64)
    return np.where(hit < checked_ratio(ratio), (clean + shift) % table.num_classes, clean)


def pair(table: SampleTable, *, ratio: float, seed: int) -> IntArray:
    """Flip each label with probability ``ratio`` in [0, 1) to the next class, the last one to the first."""
    clean = table.labels[table.train]
    hit, _ = uniform_numbers(seed, len(clean))
    return np.where(hit < checked_ratio(ratio), (clean + 1) % table.num_classes, clean)


def asymmetric(
    table: SampleTable, *, ratio: float, seed: int, map: Literal["la_net", "soft"] | Mapping[str, str] = "la_net"
) -> IntArray:
    """Flip each label with probability ``ratio`` in [0, 1) to the expression that is most easily confused with it.

    Args:
        table: of the data set.
        ratio: probability of a wrong label; classes that the map leaves out keep theirs.
        seed: of the draw.
        map: one of ``ASYMMETRIC_MAPS``, or pairs of true and given class, by class name in any order and case.

    Raises:
        OtherClasses: the map names a class that the data set does not have.
        ValueError: the map has no pair, or flips a class to itself.
    """
    pairs = ASYMMETRIC_MAPS[map] if isinstance(map, str) else map
    names = [_expression(name) for name in table.class_names]
    targets = np.arange(len(names))
    for true, given in pairs.items():
        unknown = [name for name in (true, given) if _expression(str(name)) not in names]
        if unknown:
            raise OtherClasses(
                f"noise.map: {table.root} has no class {unknown[0]}, but {', '.join(table.class_names)}: give "
                "noise.map={TRUE: GIVEN, ...} for these, or use noise=pair or noise=class_dependent"
            )
        targets[names.index(_expression(true))] = names.index(_expression(given))
    if (targets == np.arange(len(names))).sum() > len(names) - len(pairs) or not pairs:
        raise ValueError("noise.map must lead from each of its classes to another one")
    clean = table.labels[table.train]
    hit, _ = uniform_numbers(seed, len(clean))
    return np.where(hit < checked_ratio(ratio), targets[clean], clean)


def _expression(name: str) -> str:
    """Write a class name so that Happy and happiness are the same."""
    return _SAME_EXPRESSION.get(name.lower(), name.lower())


def class_dependent(
    table: SampleTable,
    *,
    matrix: Sequence[Sequence[float]],
    seed: int,
    classes: Sequence[str] | None = None,
    ratio: None = None,
) -> IntArray:
    """Draw labels from a transition matrix (K, K): ``matrix[i][j]`` is the probability that class i is labeled j.

    ``classes`` names the classes of the matrix in order, in any case, and guards against a data set with another
    order; None takes the matrix as it is.

    Raises:
        OtherClasses: the matrix is not K x K, or its classes are not the data set's.
        ValueError: it has a negative or non-finite entry or a row that does not sum to 1 (within 1e-6), or a ratio is
            given, which this noise does not use.
    """
    if ratio is not None:
        raise ValueError("noise=class_dependent takes its rates from noise.matrix: leave noise.ratio out")
    if classes is not None and [name.lower() for name in classes] != [name.lower() for name in table.class_names]:
        raise OtherClasses(
            f"noise.matrix is for the classes {', '.join(classes)}; {table.root} has {', '.join(table.class_names)}: "
            "write the rows and columns in that order and set noise.classes to it"
        )
    transition = _checked_matrix(matrix, table.class_names)
    clean = table.labels[table.train]
    draw, _ = uniform_numbers(seed, len(clean))
    bounds: NDArray[np.float64] = np.cumsum(transition, axis=1)
    bounds /= bounds[:, -1:]
    drawn: IntArray = (draw[:, None] >= bounds[clean]).sum(axis=1, dtype=np.int64)
    return drawn


def transition_counts(clean: IntArray, given: IntArray, num_classes: int) -> IntArray:
    """Samples of true class i with given label j, int64 (K, K)."""
    flat = np.bincount(clean * num_classes + given, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64, copy=False)


def fingerprint(labels: IntArray) -> str:
    """Give the MD5 of the labels counted from 1 and written one after the other, by which published lists are known.

    With ten classes or more, different labels may have the same (1, 11 and 11, 1): see ``labels_digest``.
    """
    return hashlib.md5("".join(map(str, (labels + 1).tolist())).encode(), usedforsecurity=False).hexdigest()


def labels_digest(labels: IntArray) -> str:
    """Hash labels so that different ones differ: SHA-256 of little-endian int64 values."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


def uniform_numbers(seed: int, count: int, stream: int = 0) -> NDArray[np.float64]:
    """Draw two numbers in [0, 1) per sample, (2, count).

    They are made from the raw stream, which NumPy keeps the same for ever; the methods of ``Generator`` may change.

    Args:
        seed: 0 or more.
        count: of samples.
        stream: other numbers for the same seed.

    Raises:
        ValueError: the seed is no whole number of 0 or more.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"noise.seed must be a whole number from 0 on, got {seed!r}")
    raw = np.random.PCG64([int(seed), stream] if stream else int(seed)).random_raw(2 * count)
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(2, count)


def checked_ratio(ratio: Any) -> float:
    """Check that a ratio lies in [0, 1).

    Raises:
        ValueError: it does not.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio < 1 or math.isnan(ratio):
        raise ValueError(f"noise.ratio must be a number with 0 <= ratio < 1, got {ratio!r}")
    return float(ratio)


def _checked_matrix(matrix: Sequence[Sequence[float]], class_names: Sequence[str]) -> NDArray[np.float64]:
    size = len(class_names)
    if len(matrix) != size or any(len(row) != size for row in matrix):
        raise OtherClasses(
            f"noise.matrix must have {size} rows of {size} numbers, for the classes {', '.join(class_names)}; got "
            f"{len(matrix)} rows of {', '.join(str(len(row)) for row in matrix)}"
        )
    rows = np.array([[float(value) for value in row] for row in matrix])
    for name, row in zip(class_names, rows, strict=True):
        if not (np.isfinite(row).all() and row.min() >= 0 and abs(row.sum() - 1) <= 1e-6):
            raise ValueError(
                f"noise.matrix, row of {name}: {row.tolist()} must be probabilities that sum to 1, the sum is "
                f"{row.sum():g}"
            )
    return rows
