"""SCN, the self-cure network: K. Wang, X. Peng, J. Yang, S. Lu, Y. Qiao, "Suppressing Uncertainties for Large-Scale
Facial Expression Recognition", CVPR 2020, arXiv 2002.10392.
"""

from __future__ import annotations

import math
from typing import Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.methods.core.method import Loss, Setting
from fer.methods.core.one_view import OneViewMethod
from fer.methods.eac import AttentionConsistency, ConsistencyKeys
from fer.ranges import AtLeast0, ShareBetween
from fer.views.batch import Batch, ViewBatch

Group = Literal["low", "all"]


def rank_regularization(importance: Tensor, high_share: float, margin: float) -> tuple[Tensor, Tensor]:
    """``max(0, margin - (mean importance of the high group - mean of the low group))``, and who is in the low group.

    Args:
        importance: (B,), in (0, 1). The ``floor(high_share * B)`` largest are the high group.
        high_share: in (0, 1).
        margin: by which the groups' means shall differ.

    Returns:
        The scalar, 0 where a group is empty, and a mask (B,).
    """
    count = math.floor(high_share * len(importance))
    order = importance.argsort(descending=True)
    is_low = torch.ones_like(importance, dtype=torch.bool)
    is_low.index_fill_(0, order[:count], False)  # an indexed assignment would make a GPU wait
    if not 0 < count < len(importance):
        return importance.sum() * 0, is_low
    gap = importance[order[:count]].mean() - importance[order[count:]].mean()
    return (margin - gap).clamp(min=0), is_low


class SCN(OneViewMethod):
    """Self-Cure Network (Wang et al., CVPR 2020, arXiv 2002.10392).

        alpha_i = sigmoid(w_a . f_i)                                  importance
        L_WCE   = CE(alpha_i * W f_i, y_i)                            logit-weighted cross-entropy
        L_RR    = max(0, delta_1 - (mean alpha_high - mean alpha_low))    rank regularization
        y_i    <- argmax p_i   if   max p_i - p_i[y_i] > delta_2      relabeling
        L       = L_WCE + L_RR

        symbol    argument        default
        beta      high_share      0.7
        delta_1   rank_margin     0.15 (paper, batch 1024); 0.07 in the YAML (released code, batch 64)
        delta_2   relabel_margin  0.2

    The floor(beta B) largest of a batch of B are the high group. Logits are alpha_i * W f_i in training and test
    alike; the bias is scaled too. New labels count from the next step on, and what ``train/*`` is measured against
    stays the given label. ``predictions.csv`` holds the importances.

    Differences from the released code: none with ``relabel_group="all"``. ``low`` follows the paper's text, by which
    only samples of the low group are relabeled. ``lam`` adds EAC's attention consistency, of which SCN has none.

    Args:
        setting: what the experiment fixes.
        high_share: beta, in (0, 1).
        rank_margin: delta_1, 0 or more.
        relabel_from: first epoch, counted from 0, that relabels (released code: 10th of 70).
        relabel_margin: delta_2, 0 or more.
        relabel_group: ``all`` (the released code) or ``low``, only samples of the low group (the paper's text).
        consistency: ``lam`` and ``erase``, see ``AttentionConsistency``.
    """

    labels: Tensor
    """int64 (N,), the labels in force."""

    def __init__(
        self,
        setting: Setting,
        *,
        high_share: ShareBetween = 0.7,
        rank_margin: AtLeast0 = 0.15,
        relabel_from: int = 9,
        relabel_margin: AtLeast0 = 0.2,
        relabel_group: Group = "low",
        **consistency: Unpack[ConsistencyKeys],
    ) -> None:
        super().__init__(setting)
        self.add_consistency(AttentionConsistency(setting, **consistency))
        self.high_share = high_share
        self.rank_margin = rank_margin
        self.relabel_from = relabel_from
        self.relabel_margin = relabel_margin
        self.relabel_group = relabel_group
        self.importance = nn.Linear(self.network.classifier.in_features, 1)
        self.register_sample_state("labels", setting.given_labels.clone())

    def conclusions(self) -> dict[str, Tensor]:
        """Give the labels in force, which relabeling may have replaced."""
        return {"relabeled_label": self.labels}

    def classification(self, features: Tensor, logits: Tensor, batch: ViewBatch) -> Loss:
        importance = self._importance(features)
        logits = importance[:, None] * logits
        labels = self.labels[batch.index]
        loss_cls = F.cross_entropy(logits, labels)
        loss_rank, is_low = rank_regularization(importance, self.high_share, self.rank_margin)
        if self.current_epoch >= self.relabel_from:
            self._relabel(logits.detach().softmax(1), labels, is_low, batch.index)
        parts = {
            "loss_cls": loss_cls,
            "loss_rank": loss_rank,
            "relabeled": (self.labels[batch.index] != batch.label).float().mean(),
        }
        return Loss(loss_cls + loss_rank, logits, parts)

    def classify(self, view: Tensor) -> Tensor:
        return self._logits_and_importance(view)[0]

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        logits, importance = self._logits_and_importance(self.augmentation.test_view(batch.image))
        probabilities = logits.softmax(1)
        return {"index": batch.index, "probabilities": probabilities.float(), "importance": importance.float()}

    def _logits_and_importance(self, view: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.network(view)
        importance = self._importance(features)
        return importance[:, None] * logits, importance

    def _importance(self, features: Tensor) -> Tensor:
        """Compute the importance (B,), in the precision of the layer's weight, as the logits are."""
        with torch.autocast(features.device.type, enabled=False):
            importance: Tensor = self.importance(features.to(self.importance.weight.dtype).mean((2, 3)))
        return importance.sigmoid()[:, 0]

    def _relabel(self, p: Tensor, labels: Tensor, is_low: Tensor, index: Tensor) -> None:
        largest, predicted = p.max(1)
        doubted = largest - p.gather(1, labels[:, None])[:, 0] > self.relabel_margin
        if self.relabel_group == "low":
            doubted = doubted & is_low
        self.labels[index] = torch.where(doubted, predicted, labels)
