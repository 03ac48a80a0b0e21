"""Co-teaching: B. Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
NeurIPS 2018, arXiv 1804.06872.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.batch import Batch
from fer.methods.base import Loss, Setting
from fer.methods.two_networks import Evaluated, TwoNetworks


def smallest_losses(losses: Tensor, labels: Tensor, drop_rate: float, *, per_class: bool) -> Tensor:
    """Mask (B,) of the ``floor((1 - drop_rate) * n)``, but at least one, of n samples that have the smallest losses.

    Args:
        losses: (B,).
        labels: given labels (B,).
        drop_rate: share to leave out, 0..1.
        per_class: n counts the samples of each label by itself, so that rare classes are not starved.
    """
    # Ranks within the group, without a loop over groups that a device would have to be asked about.
    same = labels[:, None] == labels if per_class else torch.ones_like(labels[:, None] == labels)
    position = torch.arange(len(losses), device=losses.device)
    before = (losses < losses[:, None]) | ((losses == losses[:, None]) & (position < position[:, None]))
    rank, size = (same & before).sum(1), same.sum(1)
    return rank < ((1 - drop_rate) * size + 1e-6).floor().clamp(min=1)


class CoTeaching(TwoNetworks):
    """Each network learns from the samples of the batch that have the smallest cross-entropy in the other.

    The share that is left out rises from 0 in the first epoch to ``noise_ratio`` ** ``exponent`` in epoch ``ramp``
    and stays. The losses are means over the samples kept; the released code divides by their number once more.

    Args:
        setting: what the experiment fixes.
        noise_ratio: assumed share of wrong labels, in [0, 1): knowledge that other methods do not have.
        ramp: epochs over which the share rises (paper: 10 of 200).
        exponent: above 0 (paper: 1).
        per_class: choose within each label (paper: no).
        evaluated: see ``TwoNetworks``; ``train/*`` is the first network's.

    Raises:
        ValueError: a value outside its range.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        noise_ratio: float | None,
        ramp: int = 10,
        exponent: float = 1.0,
        per_class: bool = False,
        evaluated: Evaluated = "first",
    ) -> None:
        if noise_ratio is None or not 0 <= noise_ratio < 1:
            raise ValueError(
                f"method.noise_ratio is {noise_ratio}; give the assumed share of wrong labels, at least 0 and below 1"
            )
        if ramp < 0 or not exponent > 0:
            raise ValueError(
                f"method.ramp is {ramp} and method.exponent {exponent}; they must be 0 or more, and above 0"
            )
        super().__init__(setting, evaluated=evaluated)
        self.noise_ratio = noise_ratio
        self.ramp = ramp
        self.exponent = exponent
        self.per_class = per_class

    def drop_rate(self, epoch: int) -> float:
        """Share of a batch that is left out in an epoch, counted from 0."""
        progress = min(epoch / self.ramp, 1.0) if self.ramp else 1.0
        return float(self.noise_ratio**self.exponent) * progress

    def loss(self, batch: Batch) -> Loss:
        logits, second_logits = self.logits_of_both(batch.image)
        losses = F.cross_entropy(logits, batch.label, reduction="none")
        second_losses = F.cross_entropy(second_logits, batch.label, reduction="none")
        drop = self.drop_rate(self.current_epoch)
        kept, kept_by_second = (
            smallest_losses(each.detach(), batch.label, drop, per_class=self.per_class)
            for each in (losses, second_losses)
        )
        loss_first = (losses * kept_by_second).sum() / kept_by_second.sum()
        loss_second = (second_losses * kept).sum() / kept.sum()
        wrong = (batch.clean_label >= 0) & (batch.label != batch.clean_label)
        parts = {
            "loss_first": loss_first,
            "loss_second": loss_second,
            "kept": kept.float().mean(),
            "kept_and_wrong": (kept & wrong).float().mean(),
        }
        return Loss(loss_first + loss_second, logits, parts)
