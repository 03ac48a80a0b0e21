"""ReSup, reliable label noise suppression: arXiv 2305.17895, TAFFC 2025; formulas from the released code (GitHub
purpleleaves007/FERDenoise).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution
from torch import Tensor
from torch.nn import functional as F

from fer.batch import Batch
from fer.methods.base import Loss, Setting
from fer.methods.two_networks import Evaluated, TwoNetworks

_BINS = 100
_LEAST = 1e-4


def clean_probability(similarity: NDArray[np.float64], iterations: int = 10) -> NDArray[np.float64]:
    """Posterior of the component of high similarity in a mixture of two beta distributions, fitted by EM.

    Components start at (1, 2) and (2, 1) with equal shares; a step matches weighted means and variances. The posterior
    is read from a table of 100 bins in which it never falls with similarity.

    Args:
        similarity: (N,), in 0..1.
        iterations: EM steps.
    """
    x = similarity.clip(_LEAST, 1 - _LEAST)
    parameters, shares = [(1.0, 2.0), (2.0, 1.0)], np.array([0.5, 0.5])
    for _ in range(iterations):
        density = np.stack([
            share * beta_distribution.pdf(x, *ab) for share, ab in zip(shares, parameters, strict=True)
        ])  # fmt: skip
        posterior = (density + 1e-12) / (density + 1e-12).sum(0)
        parameters = [_matched(x, weight) for weight in posterior]
        shares = posterior.mean(1)
    bins = np.linspace(_LEAST, 1 - _LEAST, _BINS)
    low, high = sorted(range(2), key=lambda k: parameters[k][0] / sum(parameters[k]))
    density = np.stack([shares[k] * beta_distribution.pdf(bins, *parameters[k]) for k in (low, high)]) + 1e-12
    table = np.maximum.accumulate(density[1] / density.sum(0))
    found: NDArray[np.float64] = table[(x * _BINS).astype(np.int64).clip(max=_BINS - 1)]
    return found


def _matched(x: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, float]:
    """The beta distribution with the weighted mean and variance of x."""
    mean = float((weight * x).sum() / weight.sum())
    variance = max(float((weight * (x - mean) ** 2).sum() / weight.sum()), 1e-6)
    concentration = max(mean * (1 - mean) / variance - 1, 1e-3)
    return mean * concentration, (1 - mean) * concentration


class ReSup(TwoNetworks):
    """Two networks, each of which weighs the samples of the other by how clean it thinks their labels.

    In the first epoch both learn by cross-entropy. Before every later one, the cosine similarity of each network's
    probabilities and the one-hot label over the whole training set is modelled by two beta distributions, and
    cross-entropy is weighted per sample by the OTHER network's probability of the clean one. Always added:
    ``agreement`` times the mean squared difference of both networks' probabilities. The released code starts the
    second network from other weights (ImageNet instead of faces); here both start from the backbone's.

    Args:
        setting: what the experiment fixes.
        agreement: 0 or more (released code: 5).
        evaluated: see ``TwoNetworks`` (released code: the first); ``train/*`` is the first network's.

    Raises:
        ValueError: a value outside its range.
    """

    clean: Tensor
    """Float (2, N): what the first and the second network think of every label."""

    def __init__(self, setting: Setting, *, agreement: float = 5.0, evaluated: Evaluated = "first") -> None:
        if not agreement >= 0:
            raise ValueError(f"method.agreement is {agreement}; it must be 0 or more")
        super().__init__(setting, evaluated=evaluated)
        self.agreement = agreement
        self.register_buffer("clean", torch.ones(2, len(setting.given_labels)))

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch == 0:
            return
        p = self.probabilities_of_training_samples()
        of_label = self.of_given_label(p)
        similarity = (of_label / p.norm(dim=2)).double().cpu().numpy()
        clean = torch.from_numpy(np.stack([clean_probability(row) for row in similarity]))
        self.clean.copy_(clean.clamp(_LEAST, 1 - _LEAST))

    def loss(self, batch: Batch) -> Loss:
        logits = self.logits_of_both(batch.image)
        losses = torch.stack([F.cross_entropy(z, batch.label, reduction="none") for z in logits])
        of_other = self.clean[:, batch.index].flip(0)
        loss_first, loss_second = (of_other * losses).mean(1)
        p = logits.softmax(2)
        loss_agreement = F.mse_loss(p[0], p[1])
        total = loss_first + loss_second + self.agreement * loss_agreement
        parts = {"loss_first": loss_first, "loss_second": loss_second, "loss_agreement": loss_agreement}
        return Loss(total, logits[0], {**parts, "clean": of_other.mean()})
