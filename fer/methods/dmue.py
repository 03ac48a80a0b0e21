"""DMUE: J. She, Y. Hu, H. Shi, J. Wang, Q. Shen, T. Mei, "Dive into Ambiguity: Latent Distribution Mining and Pairwise
Uncertainty Estimation for Facial Expression Recognition", CVPR 2021, arXiv 2104.00232.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.batch import Batch
from fer.methods.base import Loss, Method, Setting
from fer.methods.parameter_groups import faster
from fer.models.backbones import Backbone
from fer.models.network import feature_norm


def similarity_matrix(rows: Tensor) -> Tensor:
    """Gram matrix (B, B) of rows (B, D), each of its rows of unit length; rows of 0 stay 0."""
    return F.normalize(rows @ rows.T, dim=1)


def latent_distribution(branch_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """What the branch that never saw a sample's label thinks it is: (B, K), 0 at the label.

    Args:
        branch_logits: (K, B, K - 1), branch c without class c.
        labels: (B,).
        temperature: probabilities are raised to its inverse and normalised.
    """
    own = branch_logits[labels, torch.arange(len(labels), device=labels.device)]
    p = (own / temperature).softmax(1)  # the same as raising probabilities and normalising
    classes = torch.arange(p.shape[1], device=labels.device)
    others = classes + (classes >= labels[:, None]).long()
    return p.new_zeros(len(labels), p.shape[1] + 1).scatter(1, others, p)


class DMUE(Method):
    """A branch for every class, trained without it, tells what else a face of that class looks like.

    The backbone's last stage exists K + 1 times on one trunk. Branch c is trained by cross-entropy on the samples of
    other classes; on those of class c its prediction is their latent distribution, which the target branch is to share
    (``loss_soft``). The target branch's features are to be as similar between samples as every branch's logits
    (``loss_similarity``). Its logits are scaled by a learnt certainty, made from a sample's likeness to the classes in
    the batch and its label. The test uses the target branch alone.

    The released code leaves the certainty network out of the optimiser; here it learns. Its stem and its balanced
    sampler are not taken over, and a class may be missing from a batch.

    Args:
        setting: what the experiment fixes; the backbone has a ``trunk`` and a ``last_stage``.
        soft_weight, similarity_weight: 0 or more (released code: 0.5 and 1000).
        temperature: above 0 (released code: 1.2).
        turn: epoch by which the branches' weight falls and the target's has risen, 0 or more (released code: 10 of 36).
        dropout: before the classifiers, in [0, 1) (released code: 0.5).
        classifier_lr_factor: above 0 (released code: 10).

    Raises:
        ValueError: a value outside its range, or a backbone that cannot be split.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        soft_weight: float = 0.5,
        similarity_weight: float = 1000.0,
        temperature: float = 1.2,
        turn: int = 10,
        dropout: float = 0.5,
        classifier_lr_factor: float = 10.0,
    ) -> None:
        for name, number in (("soft_weight", soft_weight), ("similarity_weight", similarity_weight), ("turn", turn)):
            if not number >= 0:
                raise ValueError(f"method.{name} is {number}; it must be 0 or more")
        for name, number in (("temperature", temperature), ("classifier_lr_factor", classifier_lr_factor)):
            if not number > 0:
                raise ValueError(f"method.{name} is {number}; it must be above 0")
        if not 0 <= dropout < 1:
            raise ValueError(f"method.dropout is {dropout}; it must lie in [0, 1)")
        super().__init__(setting)
        if not isinstance(self.network.backbone, Backbone):
            raise ValueError("method=dmue needs a backbone with a trunk and a last_stage; choose another backbone")
        features = self.network.classifier.in_features
        self.soft_weight = soft_weight
        self.similarity_weight = similarity_weight
        self.temperature = temperature
        self.turn = turn
        self.classifier_lr_factor = classifier_lr_factor
        classes = self.num_classes
        self.branches = nn.ModuleList(copy.deepcopy(self._backbone.last_stage) for _ in range(classes))
        self.branch_classifiers = nn.ModuleList(nn.Linear(features, classes - 1, bias=False) for _ in range(classes))
        self.network.classifier = nn.Linear(features, classes, bias=False)
        self.neck = feature_norm(features, frozen_bias=True)
        self.dropout = nn.Dropout(dropout)
        self.certainty = nn.Sequential(
            nn.Linear(2 * classes, classes), nn.PReLU(), nn.Linear(classes, 1), nn.Sigmoid()
        )  # fmt: skip

    def parameter_groups(self) -> Iterable[Any]:
        classifiers = [*self.network.classifier.parameters(), *self.branch_classifiers.parameters()]
        return faster(self, classifiers, self.classifier_lr_factor)

    def weights(self, epoch: int) -> tuple[float, float]:
        """Of the target branch's losses and of the branches', in an epoch counted from 0."""
        turn = self.turn
        of_target = math.exp(-5 * (1 - epoch / turn) ** 2) if epoch <= turn and turn else 1.0
        of_branches = 1.0 if epoch < turn else math.exp(-((1 - turn / epoch) ** 2)) if epoch else 1.0
        return of_target, of_branches

    def loss(self, batch: Batch) -> Loss:
        assert isinstance(batch.image, Tensor)
        trunk = self._trunk(batch.image)
        pooled = self._pooled(self._backbone.last_stage, trunk)
        with torch.autocast(trunk.device.type, enabled=False):
            features = self.neck(pooled)
            logits: Tensor = self.network.classifier(self.dropout(features))
        stacked = []
        for branch, classifier in zip(self.branches, self.branch_classifiers, strict=True):
            own = self._pooled(branch, trunk)
            with torch.autocast(trunk.device.type, enabled=False):
                stacked.append(classifier(self.dropout(self.neck(own))))
        branch_logits = torch.stack(stacked)

        certainty = self.certainty(self._likeness(pooled, batch.label))
        loss_cls = F.cross_entropy(certainty * logits, batch.label)
        latent = latent_distribution(branch_logits.detach(), batch.label, self.temperature)
        off_label = logits.softmax(1).scatter(1, batch.label[:, None], 0.0)
        loss_soft = F.mse_loss(off_label, latent)
        losses = [self._of_branch(c, branch_logits[c], features, batch.label) for c in range(self.num_classes)]
        loss_branches, loss_similarity = (torch.stack(values).mean() for values in zip(*losses, strict=True))
        of_target, of_branches = self.weights(self.current_epoch)
        target = loss_cls + self.soft_weight * loss_soft + self.similarity_weight * loss_similarity
        parts = {
            "loss_cls": loss_cls,
            "loss_soft": loss_soft,
            "loss_similarity": loss_similarity,
            "loss_branches": loss_branches,
        }
        return Loss(of_target * target + of_branches * loss_branches, logits, parts)

    def classify(self, view: Tensor) -> Tensor:
        pooled = self._pooled(self._backbone.last_stage, self._trunk(view))
        with torch.autocast(view.device.type, enabled=False):
            logits: Tensor = self.network.classifier(self.dropout(self.neck(pooled)))
        return logits

    def _trunk(self, view: Tensor) -> Tensor:
        return self._backbone.trunk(view.contiguous(memory_format=self.network.memory_format))

    @property
    def _backbone(self) -> Backbone:
        assert isinstance(self.network.backbone, Backbone)
        return self.network.backbone

    def _pooled(self, stage: nn.Module, trunk: Tensor) -> Tensor:
        features: Tensor = stage(trunk)
        return features.to(self.network.classifier.weight.dtype).mean((2, 3))

    def _likeness(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cosine to the samples of every class in the batch, scaled to 0..1 by row, and the label: (B, 2K)."""
        unit = F.normalize(features, dim=1)
        onehot = F.one_hot(labels, self.num_classes).to(unit.dtype)
        mean = (unit @ unit.T) @ onehot / onehot.sum(0).clamp(min=1)
        least, most = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
        return torch.cat([(mean - least) / (most - least).clamp(min=1e-6), onehot], 1)

    def _of_branch(self, c: int, logits: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and similarity loss of branch c on the samples of other classes; 0 where there are none."""
        other = (labels != c).to(logits.dtype)
        count = other.sum().clamp(min=1)
        without_c = (labels - (labels > c).long()).clamp(max=logits.shape[1] - 1)  # in range for class c too
        losses = F.cross_entropy(logits, without_c, reduction="none")
        difference = similarity_matrix(other[:, None] * logits) - similarity_matrix(other[:, None] * features)
        return (other * losses).sum() / count, difference.square().sum() / count**2
