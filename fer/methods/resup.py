"""ReSup, reliable label noise suppression: arXiv 2305.17895, TAFFC 2025; formulas from the released code (GitHub
purpleleaves007/FERDenoise).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution
from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.method import Loss, Setting
from fer.methods.core.two_networks import Evaluated, TwoNetworks
from fer.ranges import AtLeast0, CountFrom0
from fer.views.batch import ViewBatch

Weights = Literal["step", "epoch"]

_BINS = 100
_LEAST = 1e-4


def clean_table(similarity: NDArray[np.float64], iterations: int = 10) -> NDArray[np.float64]:
    """Posterior of the component of high similarity in a mixture of two beta distributions, by bins of similarity.

    Components start at (1, 2) and (2, 1) with equal shares; a step of EM matches weighted means and variances.

    Args:
        similarity: (N,), in 0..1.
        iterations: EM steps.

    Returns:
        (100,), bins from 0 to 1, never falling, within 1e-4 to 1 - 1e-4.
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
    table: NDArray[np.float64] = np.maximum.accumulate(density[1] / density.sum(0)).clip(_LEAST, 1 - _LEAST)
    return table


def similarity_to_label(p: Tensor, labels: Tensor) -> Tensor:
    """Cosine similarity (2, B) of both networks' probabilities (2, B, K) and the one-hot labels (B,)."""
    of_label = p.gather(2, labels[None, :, None].expand(2, -1, 1))[:, :, 0]
    similarity: Tensor = of_label / p.norm(dim=2)
    return similarity


def look_up(tables: Tensor, similarity: Tensor) -> Tensor:
    """Clean probability (2, B) of similarities (2, B) by the networks' tables (2, 100)."""
    bins = (similarity.clamp(_LEAST, 1 - _LEAST) * _BINS).long().clamp(max=_BINS - 1)
    return tables.gather(1, bins)


def _matched(x: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, float]:
    """The beta distribution with the weighted mean and variance of x."""
    mean = float((weight * x).sum() / weight.sum())
    variance = max(float((weight * (x - mean) ** 2).sum() / weight.sum()), 1e-6)
    concentration = max(mean * (1 - mean) / variance - 1, 1e-3)
    return mean * concentration, (1 - mean) * concentration


class ReSup(TwoNetworks):
    """Reliable label noise suppression (arXiv 2305.17895; formulas from the released code).

        s_a(x)  = cos(p_a(x), onehot y)                               similarity in network a = 1, 2
        w_a(x)  = posterior of the high component of a mixture of two beta distributions, at s_a(x)
        L_1     = mean w_2(x) CE(p_1(x), y)                           and L_2 likewise with w_1
        L       = L_1 + L_2 + lambda * mean (p_1 - p_2)^2

        symbol    argument     default
        lambda    agreement    5

    The mixtures are fitted before every epoch but the first to the similarities of all training samples without
    augmentation. In the first epoch w = 1 and there is no agreement term.

    Differences from the released code: its second network starts from ImageNet's weights and the first from those of
    face recognition, here both start from the backbone's. The posterior is made monotone by its running maximum over
    100 bins, and the densities get 1e-12, which are assumptions.

    Args:
        setting: what the experiment fixes.
        agreement: lambda, 0 or more.
        agreement_from: first epoch, counted from 0, with the agreement term (released code: 1).
        weights: ``step``, w is looked up at the similarity of the current step's view (released code); ``epoch``, at
            that of the pass before the epoch, so that it stays for the epoch. Memorized labels weigh more then.
        evaluated: see ``TwoNetworks`` (released code: the first); ``train/*`` is the first network's.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        agreement: AtLeast0 = 5.0,
        agreement_from: CountFrom0 = 1,
        weights: Weights = "step",
        evaluated: Evaluated = "first",
    ) -> None:
        super().__init__(setting, evaluated=evaluated)
        self.agreement = agreement
        self.agreement_from = agreement_from
        self.weights = weights
        # Kept between epochs, because a run may be resumed within one.
        if weights == "step":
            self.register_buffer("tables", torch.ones(2, _BINS))
            self.tables: Tensor  # clean probability by similarity in the first and in the second network
            self.register_sample_state("newest", torch.ones(len(setting.given_labels), 2))
            self.newest: Tensor  # clean probability of every label when it was last looked up, by both networks
        else:
            self.register_buffer("clean", torch.ones(2, len(setting.given_labels)))
            self.clean: Tensor  # clean probability of every label in the first and in the second network

    def conclusions(self) -> dict[str, Tensor]:
        """Give how clean each network thinks the labels, 0..1."""
        first, second = self.newest.T if self.weights == "step" else self.clean
        return {"clean_by_first": first, "clean_by_second": second}

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch == 0:
            return
        similarity = similarity_to_label(self.probabilities_of_training_samples(), self.given_labels)
        tables = torch.from_numpy(np.stack([clean_table(row) for row in similarity.double().cpu().numpy()]))
        if self.weights == "step":
            self.tables.copy_(tables)
        else:
            self.clean.copy_(look_up(tables.to(similarity), similarity))

    def loss(self, batch: ViewBatch) -> Loss:
        logits = self.logits_of_both(batch.view)
        losses = torch.stack([F.cross_entropy(z, batch.label, reduction="none") for z in logits])
        p = logits.softmax(2)
        if self.weights == "step":
            clean = look_up(self.tables, similarity_to_label(p.detach(), batch.label))
            self.newest[batch.index] = clean.T.to(self.newest.dtype)
        else:
            clean = self.clean[:, batch.index]
        of_other = clean.flip(0)
        loss_first, loss_second = (of_other * losses).mean(1)
        loss_agreement = F.mse_loss(p[0], p[1])
        total = loss_first + loss_second
        if self.current_epoch >= self.agreement_from:
            total = total + self.agreement * loss_agreement
        parts = {"loss_first": loss_first, "loss_second": loss_second, "loss_agreement": loss_agreement}
        return Loss(total, logits[0], {**parts, "clean": of_other.mean()})
