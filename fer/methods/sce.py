"""SCE, symmetric cross-entropy: Y. Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV
2019, arXiv 1908.06112.
"""

from __future__ import annotations

import math
from typing import Unpack

from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.method import Loss, Setting
from fer.methods.core.one_view import OneViewMethod
from fer.methods.eac import AttentionConsistency, ConsistencyKeys
from fer.ranges import AtLeast0
from fer.views.batch import ViewBatch

LOG_OF_ZERO = math.log(1e-4)
"""Value of log 0 in the one-hot label."""
LEAST_PROBABILITY = 1e-7


def reverse_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``-sum_k p_k log(max(onehot_k, 1e-4))``, averaged over the batch: 9.21 times the probability off the label."""
    p = logits.softmax(1).clamp(min=LEAST_PROBABILITY)
    off_label = p.sum(1) - p.gather(1, labels[:, None])[:, 0]
    return -LOG_OF_ZERO * off_label.mean()


class SCE(OneViewMethod):
    """Symmetric cross-entropy (Wang et al., ICCV 2019, arXiv 1908.06112).

        L = alpha CE(z, y) + beta RCE(z, y)
        RCE = - sum_k p_k log q_k                        q the one-hot label, log 0 replaced by A = log 1e-4

        symbol    argument    default
        alpha     alpha       0.1 (released for CIFAR-10)
        beta      beta        1 (released for CIFAR-10)

    Differences from the released code: none in the loss. ``lam`` adds EAC's attention consistency, of which SCE has
    none.

    Args:
        setting: what the experiment fixes.
        alpha, beta: the two weights, 0 or more (released for CIFAR-10: 0.1 and 1).
        consistency: ``lam`` and ``erase``, see ``AttentionConsistency``.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        alpha: AtLeast0 = 0.1,
        beta: AtLeast0 = 1.0,
        **consistency: Unpack[ConsistencyKeys],
    ) -> None:
        super().__init__(setting)
        self.add_consistency(AttentionConsistency(setting, **consistency))
        self.alpha, self.beta = alpha, beta

    def classification(self, features: Tensor, logits: Tensor, batch: ViewBatch) -> Loss:
        loss_cls = F.cross_entropy(logits, batch.label)
        loss_reverse = reverse_cross_entropy(logits, batch.label)
        total = self.alpha * loss_cls + self.beta * loss_reverse
        return Loss(total, logits, {"loss_cls": loss_cls, "loss_reverse": loss_reverse})
