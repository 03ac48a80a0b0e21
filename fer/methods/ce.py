"""Plain cross-entropy, the control."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method
from fer.views.batch import Batch


class CrossEntropy(Method):
    """Mean cross-entropy of the given labels on the view that EAC classifies."""

    def loss(self, batch: Batch) -> Loss:
        assert isinstance(batch.image, Tensor)
        _, logits = self.network(batch.image)
        total = F.cross_entropy(logits, batch.label)
        return Loss(total, logits, {})
