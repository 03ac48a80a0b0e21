"""Class imbalance in the loss: weights of classes, and logits adjusted by the shares of the given labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ClassWeights = Literal["balanced", "effective"]


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Count the labels int64 (N,) of each of K classes: float64 (K,)."""
    return torch.bincount(labels, minlength=num_classes).double()


def balanced_weights(counts: Tensor) -> Tensor:
    """``w_j = N / (K n_j)``, by which every class weighs equally and the mean over the samples is 1.

    Args:
        counts: n, float (K,), 0 or more. K counts the classes with samples, N is their sum.

    Returns:
        (K,), 0 for a class without samples.
    """
    return _of_those_with_samples(counts, counts.sum() / (counts > 0).sum() / counts)


def effective_weights(counts: Tensor, beta: float) -> Tensor:
    """``w_j ~ (1 - beta) / (1 - beta ** n_j)`` with sum K, the inverse of the effective number of samples.

    Y. Cui, M. Jia, T.-Y. Lin, Y. Song, S. Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR
    2019, arXiv 1901.05555, equations 2 and 4. All weights are 1 with beta = 0 and go to those of ``1 / n_j`` for beta
    towards 1.

    Args:
        counts: n, float (K,), 0 or more. K counts the classes with samples.
        beta: in [0, 1).

    Returns:
        (K,), 0 for a class without samples.
    """
    inverse = _of_those_with_samples(counts, 1 / -torch.expm1(counts * torch.tensor(beta, dtype=counts.dtype).log()))
    return inverse * (counts > 0).sum() / inverse.sum()


def logit_offsets(counts: Tensor, tau: float) -> Tensor:
    """``tau log pi_j`` with ``pi_j = n_j / N``, which training adds to the logits and a test does not.

    A. Menon, S. Jayasumana, A. Rawat, H. Jain, A. Veit, S. Kumar, "Long-Tail Learning via Logit Adjustment", ICLR 2021,
    arXiv 2007.07314, equation 10.

    Args:
        counts: n, float (K,), 0 or more; one is above 0.
        tau: 0 or more; 1 is consistent for the mean class accuracy.

    Returns:
        (K,), 0 or less. A class without samples has no prior and gets 0, so that training still rules it out.
    """
    return _of_those_with_samples(counts, tau * (counts / counts.sum()).log())


def _of_those_with_samples(counts: Tensor, values: Tensor) -> Tensor:
    return torch.where(counts > 0, values, torch.zeros_like(values))


class PriorCrossEntropy(nn.Module):
    """Cross-entropy that may know how frequent the given labels are; by default it does not.

        L = mean_i w_{y_i} CE(z_i + o, y_i)        w = 1 and o = 0 by default

    The mean is over the samples and is not divided by the sum of their weights, so that a sample weighs alike in every
    batch and on any number of devices.

    Args:
        labels: int64 (N,), the given labels of the training samples.
        num_classes: K.
        class_weights: w, ``balanced_weights`` or ``effective_weights``; ``None`` = 1.
        beta: of the effective weights, in [0, 1).
        logit_adjustment: tau of ``logit_offsets``, 0 or more.
    """

    weights: Tensor | None
    offsets: Tensor | None

    def __init__(
        self,
        labels: Tensor,
        num_classes: int,
        *,
        class_weights: ClassWeights | None = None,
        beta: float = 0.999,
        logit_adjustment: float = 0.0,
    ) -> None:
        super().__init__()
        counts, weights = class_counts(labels, num_classes), None
        if class_weights is not None:
            weights = balanced_weights(counts) if class_weights == "balanced" else effective_weights(counts, beta)
        offsets = logit_offsets(counts, logit_adjustment) if logit_adjustment else None
        # Not kept in checkpoints: they follow from the labels.
        self.register_buffer("weights", None if weights is None else weights.float(), persistent=False)
        self.register_buffer("offsets", None if offsets is None else offsets.float(), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss, a scalar, of logits (B, K) and of labels int64 (B,) or their distributions (B, K).

        A distribution q enters as the mean over its labels, ``- sum_j w_j q_j log p_j``.
        """
        if self.offsets is not None:
            logits = logits + self.offsets
        if self.weights is None:
            return F.cross_entropy(logits, target)
        dtype = torch.promote_types(logits.dtype, self.weights.dtype)
        return F.cross_entropy(logits.to(dtype), target, weight=self.weights.to(dtype), reduction="none").mean()
