"""Label noise that depends on the picture: some faces are easier to get wrong than others.

Source: Xia et al., "Part-dependent label noise", NeurIPS 2020, algorithm 2; also in the code of DISC (Li et al., CVPR
2023).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fer.data.images.decode import FileFault, ImageFault, decode, pixels
from fer.data.noise import checked_ratio, uniform_numbers
from fer.data.table import IntArray, SampleTable

THUMBNAIL = 16
"""Edge of the gray picture whose pixels are the features, so d = 256."""
_DEVIATION = 0.1
_RATES, _WEIGHTS, _LABELS = 1, 2, 3


def instance_dependent(table: SampleTable, *, ratio: float, seed: int) -> IntArray:
    """Draw labels whose probabilities depend on the picture x_i of a face of class y_i.

        q_i ~ N(ratio, 0.1^2), truncated to [0, 1]      probability of a wrong label
        W_y ~ N(0, 1), (d, K)                           one matrix per class
        p_i = q_i softmax(x_i W_{y_i}) over the other classes, 1 - q_i for y_i

    x_i are the pixels of the face as 16 x 16 gray values, each standardized over the training split. Near 0 and 1 the
    truncation draws the mean of q towards the middle: 0.13 at a ratio of 0.1. Every start decodes the training images;
    ``fer-data noise`` writes the labels to a list, which ``noise=file`` reads at once.

    Args:
        table: of the data set; images that cannot be decoded count as black.
        ratio: probability of a wrong label, [0, 1).
        seed: of all draws.

    Raises:
        ValueError: a ratio outside [0, 1), or a seed that is no whole number of 0 or more.
    """
    clean = table.labels[table.train]
    count, classes = len(clean), table.num_classes
    normal = NormalDist(checked_ratio(ratio), _DEVIATION)
    below, above = normal.cdf(0), normal.cdf(1)
    rates = _quantiles(normal, below + (above - below) * _between(uniform_numbers(seed, count, _RATES)[0]))
    size = THUMBNAIL**2 * classes * classes
    weights = _quantiles(NormalDist(), _between(uniform_numbers(seed, size, _WEIGHTS)[0]))
    weights = weights.reshape(classes, -1, classes)
    draw = uniform_numbers(seed, count, _LABELS)[0]
    features = _features(table)
    given = clean.copy()
    for label in range(classes):
        rows = np.flatnonzero(clean == label)
        scores = features[rows] @ weights[label]
        scores[:, label] = -np.inf
        shares = np.exp(scores - scores.max(1, keepdims=True))
        probabilities = rates[rows, None] * shares / shares.sum(1, keepdims=True)
        probabilities[:, label] = 1 - rates[rows]
        bounds = probabilities.cumsum(1)
        given[rows] = np.minimum((draw[rows, None] * bounds[:, -1:] >= bounds).sum(1), classes - 1)
    return given


def _quantiles(distribution: NormalDist, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the values below which these shares lie."""
    return np.array([distribution.inv_cdf(share) for share in shares.tolist()])


def _between(draw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep numbers half a step away from 0, whose quantile is infinite."""
    return draw + 2.0**-54


def _features(table: SampleTable) -> NDArray[np.float64]:
    """Read the training faces as standardized gray pixels (N_train, 256)."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(_gray, (table.paths[row] for row in table.train))
        gray = np.stack(list(found))
    deviation = gray.std(0)
    standardized: NDArray[np.float64] = (gray - gray.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    return standardized


def _gray(path: Path) -> NDArray[np.float64]:
    try:
        image = decode(path)
    except (FileFault, ImageFault):  # told with all others where images are checked
        return np.zeros(THUMBNAIL**2)
    gray: NDArray[np.float64] = pixels(image, THUMBNAIL).mean(0, dtype=np.float64)
    return gray.ravel()
