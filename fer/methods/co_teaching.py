"""Co-teaching: B. Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
NeurIPS 2018, arXiv 1804.06872.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.method import Loss, Setting
from fer.methods.core.two_networks import Evaluated, TwoNetworks
from fer.ranges import Above0, CountFrom0, ShareBelow1
from fer.views.batch import ViewBatch

Schedule = Literal["released", "paper"]


def smallest_losses(losses: Tensor, labels: Tensor, drop_rate: float, *, per_class: bool) -> Tensor:
    """Mask (B,) of the ``floor((1 - drop_rate) * n)``, but at least one, of n samples that have the smallest losses.

    Args:
        losses: (B,).
        labels: given labels (B,).
        drop_rate: share to leave out, 0..1.
        per_class: n counts the samples of each label by itself, so that rare classes are not starved.
    """
    # Ranks within the group; a loop over groups would make the host wait for the device.
    same = labels[:, None] == labels if per_class else torch.ones_like(labels[:, None] == labels)
    position = torch.arange(len(losses), device=losses.device)
    before = (losses < losses[:, None]) | ((losses == losses[:, None]) & (position < position[:, None]))
    rank, size = (same & before).sum(1), same.sum(1)
    return rank < ((1 - drop_rate) * size + 1e-6).floor().clamp(min=1)


class CoTeaching(TwoNetworks):
    """Co-teaching (Han et al., NeurIPS 2018): each network learns from the samples that are easy for the other.

        D_a       = the (1 - R(t)) B samples of the batch with the smallest CE(z_a, y) in network a = 1, 2
        L         = mean over D_2 of CE(z_1, y) + mean over D_1 of CE(z_2, y)
        released  R(t) = min(t / (T_k - 1), 1) tau^c for t < T_k, and tau from then on
        paper     R(t) = min(t / T_k, 1) tau^c

        symbol    argument       default
        tau       noise_ratio    -
        T_k       ramp           10 (of 200 epochs)
        c         exponent       1

    The released code counts t from 1 in the first trained epoch (t = 0 is tested only), so that R reaches its end in
    the ninth with T_k = 10, and with c other than 1 it jumps to tau in the tenth. The paper's schedule counts t from 0
    here and stays at tau^c.

    Differences from the released code: it divides each mean by the number of samples once more, which is left out. Of
    n samples it keeps (1 - R) n rounded down as floating point has it; here 1e-6 is added, so that 0.7 * 10 is 7, and
    at least one is kept. Equal losses keep the order of the batch.

    Args:
        setting: what the experiment fixes.
        noise_ratio: tau, the assumed share of wrong labels, in [0, 1): knowledge that other methods do not have.
        ramp: T_k, epochs over which the share left out rises; 0, at its end from the first epoch on.
        exponent: c, above 0.
        schedule: R(t), ``released`` or ``paper``.
        per_class: choose within each label (paper and released code: no).
        evaluated: see ``TwoNetworks``; ``train/*`` is the first network's.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        noise_ratio: ShareBelow1 | None,
        ramp: CountFrom0 = 10,
        exponent: Above0 = 1.0,
        schedule: Schedule = "released",
        per_class: bool = False,
        evaluated: Evaluated = "first",
    ) -> None:
        if noise_ratio is None:
            raise ValueError("method.noise_ratio is None; give the assumed share of wrong labels")
        super().__init__(setting, evaluated=evaluated)
        self.noise_ratio = noise_ratio
        self.ramp = ramp
        self.exponent = exponent
        self.schedule = schedule
        self.per_class = per_class

    def drop_rate(self, epoch: int) -> float:
        """Return R, the share of a batch that is left out, of an epoch counted from 0."""
        end = float(self.noise_ratio**self.exponent)
        if self.schedule == "paper":
            return end * (min(epoch / self.ramp, 1.0) if self.ramp else 1.0)
        t = epoch + 1
        return end * t / (self.ramp - 1) if t < self.ramp else self.noise_ratio

    def loss(self, batch: ViewBatch) -> Loss:
        logits, second_logits = self.logits_of_both(batch.view)
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
