"""GCE, generalized cross-entropy: Z. Zhang, M. Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural
Networks with Noisy Labels", NeurIPS 2018, arXiv 1805.07836.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from fer.methods.core.method import Loss, Setting
from fer.methods.core.one_view import OneViewMethod
from fer.methods.core.over_training_set import over_training_samples
from fer.methods.eac import AttentionConsistency, ConsistencyKeys
from fer.ranges import CountFrom1, ShareAbove0, ShareBetween
from fer.views.batch import ViewBatch

LEAST_PROBABILITY = 1e-7
"""The slope of p ** q is infinite at 0, which a softmax reaches in float32."""


def generalized_cross_entropy(p: Tensor, q: float) -> Tensor:
    """``(1 - p ** q) / q`` of the label's probability p: cross-entropy as q goes to 0, 1 - p at q = 1."""
    return (1 - p.clamp(min=LEAST_PROBABILITY) ** q) / q


class GCE(OneViewMethod):
    """Generalized cross-entropy (Zhang and Sabuncu, NeurIPS 2018, arXiv 1805.07836).

        L = mean w_i (1 - p_{y_i}^q) / q                  w is 1, or 0 for labels that truncation doubts

        symbol    argument       default
        q         q              0.7
        k         truncate_at    never; paper 0.5

    Differences from the released code: none in the loss; its truncation begins one epoch earlier (the 40th, index 39).

    With ``truncate_at`` = k, from epoch ``truncate_from`` on and every ``truncate_every`` epochs, samples whose label
    the network gives at most k are left out; their part of the paper's truncated loss is a constant, which is left out
    too. Its authors' code asks the best network so far, chosen on a validation set; this asks the present one.

    Args:
        setting: what the experiment fixes.
        q: between cross-entropy and mean absolute error, in (0, 1] (paper: 0.7).
        truncate_at: k in (0, 1), paper: 0.5; ``None`` = never.
        truncate_from: first epoch, counted from 0, that leaves samples out (paper: 40 of 120).
        truncate_every: epochs between two judgements (paper: 10).
        consistency: ``lam`` and ``erase``, see ``AttentionConsistency``.
    """

    kept: Tensor
    """Float (N,), the weights w."""

    def __init__(
        self,
        setting: Setting,
        *,
        q: ShareAbove0 = 0.7,
        truncate_at: ShareBetween | None = None,
        truncate_from: int = 40,
        truncate_every: CountFrom1 = 10,
        **consistency: Unpack[ConsistencyKeys],
    ) -> None:
        super().__init__(setting)
        self.add_consistency(AttentionConsistency(setting, **consistency))
        self.q = q
        self.truncate_at = truncate_at
        self.truncate_from, self.truncate_every = truncate_from, truncate_every
        self.register_buffer("kept", torch.ones(len(setting.given_labels)))

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        since = self.current_epoch - self.truncate_from
        if self.truncate_at is not None and since >= 0 and since % self.truncate_every == 0:
            self.kept.copy_(over_training_samples(self, self._probability_of_label) > self.truncate_at)

    def classification(self, features: Tensor, logits: Tensor, batch: ViewBatch) -> Loss:
        p = logits.softmax(1).gather(1, batch.label[:, None])[:, 0]
        kept = self.kept[batch.index]
        loss_cls = (kept * generalized_cross_entropy(p, self.q)).mean()
        return Loss(loss_cls, logits, {"loss_cls": loss_cls, "kept": kept.mean()})

    def _probability_of_label(self, batch: ViewBatch) -> Tensor:
        return self.classify(batch.view).softmax(1).gather(1, batch.label[:, None])[:, 0]
