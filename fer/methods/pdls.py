"""PDLS, label smoothing with a prior distribution.

T.-H. Vo, G.-S. Lee, H.-J. Yang, S.-H. Kim, "Pyramid With Super Resolution for In-the-Wild Facial Expression
Recognition", IEEE Access 2020, doi 10.1109/ACCESS.2020.3010018. Of that paper this is the loss, not the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from fer.errors import OtherClasses
from fer.methods.core.method import Loss, Setting
from fer.methods.core.one_view import OneViewMethod
from fer.methods.eac import AttentionConsistency, ConsistencyKeys
from fer.ranges import Share
from fer.views.batch import ViewBatch


class PDLS(OneViewMethod):
    """Label smoothing by a prior distribution of annotators' confusions (PDLS; Vo et al., IEEE Access 2020).

        L = CE(z, q),    q = alpha onehot(y) + (1 - alpha) prior[y]

        symbol    argument    default
        alpha     alpha       0.8 (released for RAF-DB)

    Differences from the released code: none in the loss. ``lam`` adds EAC's attention consistency, of which PDLS has
    none.

    Args:
        setting: what the experiment fixes.
        classes: the classes of the prior's rows and columns, in their order; the data must have the same, in any.
        prior: row i says how often annotators see each expression in a face of class i, K rows of K numbers of 0 or
            more that sum to at most 1. The released rows sum to less, because contempt was dropped from them.
        alpha: share of the given label, 0..1 (released RAF-DB configuration: 0.8).
        consistency: ``lam`` and ``erase``, see ``AttentionConsistency``.

    Raises:
        OtherClasses: the classes are not the data's.
        ValueError: the prior is not (K, K), or a row has a number below 0 or a sum above 1.
    """

    takes_soft_labels = True
    prior: Tensor
    """Float (K, K) in the order of the data's classes."""

    def __init__(
        self,
        setting: Setting,
        *,
        classes: Sequence[str],
        prior: Sequence[Sequence[float]],
        alpha: Share = 0.8,
        **consistency: Unpack[ConsistencyKeys],
    ) -> None:
        if sorted(classes) != sorted(setting.class_names):
            raise OtherClasses(
                f"method.prior is for {', '.join(classes)}, the data has {', '.join(setting.class_names)}; "
                "give method.classes and method.prior of these, or use method=label_smoothing"
            )
        if [len(row) for row in prior] != [len(classes)] * len(classes):
            raise ValueError(f"method.prior must have {len(classes)} rows of {len(classes)} numbers")
        for name, row in zip(classes, prior, strict=True):
            if min(row) < 0 or not sum(row) <= 1 + 1e-6:
                raise ValueError(
                    f"method.prior: the row of {name} must hold numbers of 0 or more that sum to at most 1"
                )
        super().__init__(setting)
        self.add_consistency(AttentionConsistency(setting, **consistency))
        self.alpha = alpha
        order = [list(classes).index(name) for name in setting.class_names]
        self.register_buffer("prior", torch.tensor(prior, dtype=torch.float32)[order][:, order], persistent=False)

    def classification(self, features: Tensor, logits: Tensor, batch: ViewBatch) -> Loss:
        log_p = logits.log_softmax(1)
        if batch.votes is None:
            of_label = log_p.gather(1, batch.label[:, None])[:, 0]
            of_prior = (self.prior[batch.label] * log_p).sum(1)
        else:
            votes = batch.votes.to(log_p.dtype)
            of_label = (votes * log_p).sum(1)
            of_prior = (votes @ self.prior.to(log_p.dtype) * log_p).sum(1)
        loss_cls = -(self.alpha * of_label + (1 - self.alpha) * of_prior).mean()
        return Loss(loss_cls, logits, {"loss_cls": loss_cls})
