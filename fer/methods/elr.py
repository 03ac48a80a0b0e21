"""ELR, early-learning regularization: S. Liu, J. Niles-Weed, N. Razavian, C. Fernandez-Granda, "Early-Learning
Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020, arXiv 2007.00151.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.method import Loss, Setting
from fer.methods.core.one_view import OneViewMethod
from fer.methods.eac import AttentionConsistency, ConsistencyKeys
from fer.ranges import AtLeast0, ShareBelow1
from fer.views.batch import ViewBatch

LEAST_PROBABILITY = 1e-4


class ELR(OneViewMethod):
    """Early-Learning Regularization (Liu et al., NeurIPS 2020, arXiv 2007.00151).

        t_i <- beta t_i + (1 - beta) p_i / sum(p_i)       at every step that shows the sample, before the loss
        L    = CE(z, y) + lambda mean log(1 - <t_i, p_i>)

        symbol    argument    default
        beta      beta        0.7 (CIFAR-10)
        lambda    strength    3 (CIFAR-10)

    Differences from the released code: none. p is clamped to 1e-4..1 - 1e-4 and no gradient goes through t, as there.
    ``lam`` adds EAC's attention consistency, of which ELR has none.

    Args:
        setting: what the experiment fixes.
        beta: momentum of the targets, in [0, 1) (CIFAR-10: 0.7, CIFAR-100: 0.9).
        strength: weight of the regularizer, the paper's lambda, 0 or more (CIFAR-10: 3, CIFAR-100: 7).
        consistency: ``lam`` and ``erase``, see ``AttentionConsistency``.
    """

    targets: Tensor
    """Float (N, K), 0 until a sample has been seen."""

    def __init__(
        self,
        setting: Setting,
        *,
        beta: ShareBelow1 = 0.7,
        strength: AtLeast0 = 3.0,
        **consistency: Unpack[ConsistencyKeys],
    ) -> None:
        super().__init__(setting)
        self.add_consistency(AttentionConsistency(setting, **consistency))
        self.beta, self.strength = beta, strength
        self.register_sample_state("targets", torch.zeros(len(setting.given_labels), self.num_classes))

    def conclusions(self) -> dict[str, Tensor]:
        """Give each sample's target: its class and that class's probability."""
        confidence, label = self.targets.max(1)
        return {"target_label": label, "target_confidence": confidence}

    def classification(self, features: Tensor, logits: Tensor, batch: ViewBatch) -> Loss:
        p = logits.softmax(1).clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        now = p.detach().to(self.targets.dtype)
        target = self.beta * self.targets[batch.index] + (1 - self.beta) * now / now.sum(1, keepdim=True)
        self.targets[batch.index] = target
        loss_cls = F.cross_entropy(logits, batch.label)
        loss_elr = torch.log(1 - (target * p).sum(1)).mean()
        total = loss_cls + self.strength * loss_elr
        return Loss(total, logits, {"loss_cls": loss_cls, "loss_elr": loss_elr})
