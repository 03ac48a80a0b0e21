"""Plain cross-entropy, the control."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fer.batch import Batch
from fer.methods.base import Loss, Method


class CrossEntropy(Method):
    """Mean cross-entropy of the given labels on the view that EAC classifies."""

    def loss(self, batch: Batch) -> Loss:
        assert isinstance(batch.image, Tensor)
        _, logits = self.network(batch.image)
        total = F.cross_entropy(logits, batch.label)
        return Loss(total, logits, {})
