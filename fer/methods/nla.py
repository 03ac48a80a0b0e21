"""NLA, a weighting of samples by the two largest probabilities: arXiv 2502.09993, AAAI 2025; formulas from the
released code (GitHub jungyu0413/NLA).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method, Setting
from fer.views.batch import ViewBatch

Reduction = Literal["sum", "mean"]
_RAMP = 15.0


def gaussian_weight(p: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Weight (B,) of samples by the probability of their label and by the largest of another class.

    The density of a Gaussian in that plane: for samples whose label is predicted around (0.5, 0.5), a circle at first
    that becomes a ridge along the falling diagonal with ``progress``; for the others around (0.30, 0.15).

    Args:
        p: probabilities (B, K).
        labels: given labels (B,).
        progress: share of training that lies behind, 0..1.
    """
    given = p.gather(1, labels[:, None])[:, 0]
    other = p.scatter(1, labels[:, None], -1.0).amax(1)
    ramp = 1 - math.exp(-_RAMP * progress)
    right = _density(given, other, (0.5, 0.5), *_covariance(0.8, 2.0, -ramp))
    wrong = _density(given, other, (0.30, 0.15), *_covariance(0.91, 6.0, 1.0))
    return torch.where(given > other, right, wrong)


def _covariance(s: float, r: float, lean: float) -> tuple[float, float]:
    """Variance of both coordinates and their covariance, ``lean`` of what a full tilt has."""
    return s**2 + (s / r) ** 2, lean * (s**2 - (s / r) ** 2)


def _density(x: Tensor, y: Tensor, mean: tuple[float, float], variance: float, covariance: float) -> Tensor:
    determinant = variance**2 - covariance**2
    x, y = x - mean[0], y - mean[1]
    square = (variance * (x * x + y * y) - 2 * covariance * x * y) / determinant
    return torch.exp(-0.5 * square) / (2 * math.pi * math.sqrt(determinant))


class NLA(Method):
    """Navigating Label Ambiguity (AAAI 2025, arXiv 2502.09993).

        L = 0.5 mean(CE) + 0.5 mean(w CE) + 0.5 JS       w by ``gaussian_weight`` from the two largest probabilities,
                                                         JS between a face and its mirror image

    Differences from the released code: none with ``js_reduction="sum"``. As there, w is not detached, the mean of the
    two views is taken of their logits, and JS is summed over the batch, so that its weight grows with the batch's size.

    Args:
        setting: what the experiment fixes.
        js_reduction: ``sum`` as released, or ``mean``.
    """

    views = 2
    follows_total_epochs = True

    def __init__(self, setting: Setting, *, js_reduction: Reduction = "sum") -> None:
        super().__init__(setting)
        self.js_reduction = js_reduction

    def loss(self, batch: ViewBatch) -> Loss:
        first, second = batch.views
        _, logits = self.network(first)
        _, mirrored_logits = self.network(second)
        each = F.cross_entropy(logits, batch.label, reduction="none")
        weight = gaussian_weight(logits.softmax(1), batch.label, self.current_epoch / self.total_epochs)
        loss_cls, loss_weighted = each.mean(), (weight * each).mean()
        middle = ((logits + mirrored_logits) / 2).softmax(1)
        divergences = [F.kl_div(z.log_softmax(1), middle, reduction="sum") for z in (logits, mirrored_logits)]
        loss_js = 0.5 * (divergences[0] + divergences[1])
        if self.js_reduction == "mean":
            loss_js = loss_js / len(logits)
        total = 0.5 * (loss_cls + loss_weighted + loss_js)
        return Loss(total, logits, {"loss_cls": loss_cls, "loss_weighted": loss_weighted, "loss_js": loss_js})
