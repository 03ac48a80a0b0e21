"""Plain cross-entropy, the control."""

from __future__ import annotations

from torch.nn import functional as F

from fer.methods.core.method import Loss, Method
from fer.views.batch import ViewBatch


class CrossEntropy(Method):
    """Cross-entropy of the given labels, the control of every comparison.

    L = mean_i CE(W f_i, y_i)          on the view that EAC classifies
    """

    takes_soft_labels = True

    def loss(self, batch: ViewBatch) -> Loss:
        _, logits = self.network(batch.view)
        total = F.cross_entropy(logits, batch.target)
        return Loss(total, logits, {})
