"""mixup: H. Zhang, M. Cisse, Y. Dauphin, D. Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv
1710.09412.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method, Setting
from fer.ranges import Above0
from fer.views.batch import ViewBatch


class Mixup(Method):
    """Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412).

        x = l x_i + (1 - l) x_j                          j a random partner, l ~ Beta(alpha, alpha), one l per batch
        L = mean (l CE(z(x), y_i) + (1 - l) CE(z(x), y_j))

        symbol    argument    default
        alpha     alpha       1 (released code)

    Differences from the released code: none in the loss. ``train/acc`` counts the mixed image against the label of its
    first part, which means little; ``train/acc_mixed`` weighs both labels.

    Args:
        setting: what the experiment fixes.
        alpha: l is drawn from Beta(alpha, alpha); above 0 (released: 1).

    Raises:
        ValueError: alpha is not above 0.
    """

    def __init__(self, setting: Setting, *, alpha: Above0 = 1.0) -> None:
        super().__init__(setting)
        self.alpha = alpha

    def loss(self, batch: ViewBatch) -> Loss:
        share = torch.distributions.Beta(self.alpha, self.alpha).sample().item()
        other = torch.randperm(len(batch.label), device=batch.view.device)
        _, logits = self.network(share * batch.view + (1 - share) * batch.view[other])
        total = share * F.cross_entropy(logits, batch.label)
        total = total + (1 - share) * F.cross_entropy(logits, batch.label[other])
        predicted = logits.argmax(1)
        right = share * (predicted == batch.label) + (1 - share) * (predicted == batch.label[other])
        return Loss(total, logits, {"acc_mixed": right.mean()})
