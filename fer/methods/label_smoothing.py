"""Label smoothing: C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.nn import functional as F

from fer.methods.core.method import Loss, Setting
from fer.methods.core.one_view import OneViewMethod
from fer.methods.eac import AttentionConsistency, ConsistencyKeys
from fer.ranges import Share
from fer.views.batch import ViewBatch


class LabelSmoothing(OneViewMethod):
    """Label smoothing (Szegedy et al., CVPR 2016, arXiv 1512.00567).

        L = CE(z, q),    q = (1 - epsilon) onehot(y) + epsilon / K

        symbol    argument    default
        epsilon   share       0.1

    ``lam`` adds EAC's attention consistency, which is no part of the method.

    Args:
        setting: what the experiment fixes.
        share: of a label that is spread evenly over all classes, 0..1 (paper: 0.1).
        consistency: ``lam`` and ``erase``, see ``AttentionConsistency``.
    """

    takes_soft_labels = True

    def __init__(self, setting: Setting, *, share: Share = 0.1, **consistency: Unpack[ConsistencyKeys]) -> None:
        super().__init__(setting)
        self.add_consistency(AttentionConsistency(setting, **consistency))
        self.share = share

    def classification(self, features: Tensor, logits: Tensor, batch: ViewBatch) -> Loss:
        loss_cls = F.cross_entropy(logits, batch.target, label_smoothing=self.share)
        return Loss(loss_cls, logits, {"loss_cls": loss_cls})
