"""DMUE: J. She, Y. Hu, H. Shi, J. Wang, Q. Shen, T. Mei, "Dive into Ambiguity: Latent Distribution Mining and Pairwise
Uncertainty Estimation for Facial Expression Recognition", CVPR 2021, arXiv 2104.00232.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.errors import ConfigError, TrainingError
from fer.methods.core.method import Loss, Method, Setting
from fer.methods.core.parameter_groups import faster
from fer.models.backbones import Backbone
from fer.models.batch_norm import groups_apart, make_groupable
from fer.models.network import feature_norm
from fer.ranges import Above0, AtLeast0, CountFrom0, ShareBelow1
from fer.views.batch import Batch, ViewBatch


def similarity_matrix(rows: Tensor) -> Tensor:
    """Gram matrix (B, B) of rows (B, D), each of its rows of unit length; rows of 0 stay 0."""
    return F.normalize(rows @ rows.T, dim=1)


def latent_distribution(branch_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Predict by the branch that never saw a sample's label: (B, K), 0 at the label.

    Args:
        branch_logits: (K, B, K - 1), branch c without class c.
        labels: (B,).
        temperature: probabilities are raised to its inverse and normalized.
    """
    own = branch_logits[labels, torch.arange(len(labels), device=labels.device)]
    p = (own / temperature).softmax(1)  # the same as raising probabilities and normalizing
    classes = torch.arange(p.shape[1], device=labels.device)
    others = classes + (classes >= labels[:, None]).long()
    return p.new_zeros(len(labels), p.shape[1] + 1).scatter(1, others, p)


class _Passes(NamedTuple):
    """Outputs of all branches for a batch."""

    features: Tensor
    """(B, C), the target branch's, whose similarities count."""
    logits: Tensor
    """(B, K), the target branch's."""
    branch_logits: Tensor
    """(K, B, K - 1), with gradient; branch c's for samples of class c count for nothing."""
    latent_logits: Tensor
    """(K, B, K - 1), without gradient; branch c's for samples of class c alone count."""


class DMUE(Method):
    """Label distributions from branches that were trained without a class, and a certainty of each sample.

    The backbone's last stage exists K + 1 times on one trunk: a branch for each class and a target branch.

        L      = w_u * (L_ce + w * L_soft + gamma * L_sp) + w_d * mean_c CE(branch c, samples of other classes)
        L_ce   = CE(s_i * z_i, y_i)             s = certainty network(mean cosine to each class, one-hot label)
        L_soft = MSE(p_i with its label's entry 0, softmax(branch y_i / T))           the latent distribution
        L_sp   = mean_c MSE(G(logits of branch c), G(features of the target branch))  on the samples of other classes
        G(F)   = F F^T with rows of unit length
        w_u    = exp(-5 (1 - e / b)^2), 1 after b;   w_d = 1, after b exp(-(1 - b / e)^2);   e counts from 0

        symbol  argument           default
        w       soft_weight        0.5
        gamma   similarity_weight  1000
        T       temperature        1.2
        b       turn               10 of 36 epochs (released code, of RAF-DB: 9 or 10; of AffectNet: 6)

    ``passes="released"``: after the pool come dropout, a BatchNorm neck and the classifier, and L_sp takes the features
    after the neck. Branch c passes the samples of other classes, and once more, without dropout, those of class c for
    their latent distribution; BatchNorm sees the two apart. ``passes="joint"``: each branch passes the batch once,
    the neck comes before dropout, and L_sp takes features without dropout.

    Differences from the released code: the backbone's stem is the experiment's, not one without ReLU whose pool is 2x2;
    the sampler is not balanced by class. A class may be missing from a batch unless ``skip_incomplete``; cosines to
    it are then 0. A row of equal cosines gives 0, not a division by 0. The released code leaves the certainty network
    and the neck out of the optimizer: ``learn_certainty=false`` and ``learn_neck=false`` do so too. From random weights
    at 30 times the learning rate the released code does not learn either: its cross-entropy stays at 1.95 to 2.00 for 8
    epochs, and falls to 1.30 with a similarity weight of 0.

    Args:
        setting: what the experiment fixes; the backbone has a ``trunk`` and a ``last_stage``.
        soft_weight, similarity_weight, turn: w, gamma and, in epochs, b; 0 or more.
        temperature: T, above 0.
        dropout: before the classifiers, in [0, 1) (released code: 0.5).
        classifier_lr_factor, classifier_std: above 0; the latter of the initial weights (released code: 10, 0.001).
        passes: ``released`` or ``joint``.
        learn_certainty: train the certainty network (the paper) or leave it as initialized.
        learn_neck: train the neck's scale; its shift never is.
        skip_incomplete: make no step for batches with fewer than two samples of a class (released code).

    Raises:
        ValueError: the backbone cannot be split.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        soft_weight: AtLeast0 = 0.5,
        similarity_weight: AtLeast0 = 1000.0,
        temperature: Above0 = 1.2,
        turn: CountFrom0 = 10,
        dropout: ShareBelow1 = 0.5,
        classifier_lr_factor: Above0 = 10.0,
        classifier_std: Above0 = 0.001,
        passes: Literal["released", "joint"] = "released",
        learn_certainty: bool = True,
        learn_neck: bool = False,
        skip_incomplete: bool = False,
    ) -> None:
        super().__init__(setting)
        if not isinstance(self.network.backbone, Backbone):
            raise ValueError("method=dmue needs a backbone with a trunk and a last_stage; choose another backbone")
        features = self.network.classifier.in_features
        self.soft_weight = soft_weight
        self.similarity_weight = similarity_weight
        self.temperature = temperature
        self.turn = turn
        self.classifier_lr_factor = classifier_lr_factor
        self.passes = passes
        self.skip_incomplete = skip_incomplete
        self._skips = False
        if skip_incomplete:
            # Lightning warns of this hook wherever there is one.
            self.on_before_batch_transfer = self.decide_before_transfer  # type: ignore[method-assign]
        classes = self.num_classes
        self.branches = nn.ModuleList(copy.deepcopy(self._backbone.last_stage) for _ in range(classes))
        self.branch_classifiers = nn.ModuleList(nn.Linear(features, classes - 1, bias=False) for _ in range(classes))
        self.network.classifier = nn.Linear(features, classes, bias=False)
        for classifier in (self.network.classifier, *self.branch_classifiers):
            assert isinstance(classifier, nn.Linear)
            nn.init.normal_(classifier.weight, std=classifier_std)
        self.neck = feature_norm(features, frozen_bias=True)
        self.dropout = nn.Dropout(dropout)
        self.certainty = nn.Sequential(
            nn.Linear(2 * classes, classes), nn.PReLU(), nn.Linear(classes, 1), nn.Sigmoid()
        )  # fmt: skip
        self.certainty.requires_grad_(learn_certainty)
        if not learn_neck:
            self.neck.requires_grad_(False)
        if passes == "released":
            make_groupable(self.branches)
            make_groupable(self.neck)

    def parameter_groups(self) -> Iterable[Any]:
        classifiers = [*self.network.classifier.parameters(), *self.branch_classifiers.parameters()]
        return faster(self, classifiers, self.classifier_lr_factor)

    def weights(self, epoch: int) -> tuple[float, float]:
        """Weights of the target branch's and of the other branches' losses in an epoch counted from 0."""
        turn = self.turn
        of_target = math.exp(-5 * (1 - epoch / turn) ** 2) if epoch <= turn and turn else 1.0
        of_branches = 1.0 if epoch < turn else math.exp(-((1 - turn / epoch) ** 2)) if epoch else 1.0
        return of_target, of_branches

    def on_fit_start(self) -> None:
        if self.skip_incomplete and self.trainer.world_size > 1:
            raise ConfigError("method.skip_incomplete=true needs a single device: ranks would skip different steps")

    def decide_before_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Decide whether to skip a training batch while its labels are on the CPU, so that no GPU has to wait."""
        if self.trainer.training:
            self._skips = bool(torch.bincount(batch.label, minlength=self.num_classes).min() < 2)
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        if not self._skips:
            return super().training_step(batch, batch_idx)
        nothing = 0 * self.network.classifier.weight.sum()
        names = ("", "_cls", "_soft", "_similarity", "_branches")
        return {"loss": nothing, "parts": {f"loss{name}": nothing.detach() for name in names}}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self._skips:
            # Optimizers skip parameters without a gradient, also their weight decay and momentum.
            optimizer.zero_grad(set_to_none=True)

    def on_train_epoch_end(self) -> None:
        if self.training_statistics.is_empty:
            raise TrainingError(
                "no batch of the epoch has two samples of each class, so that all were skipped; take a larger "
                "batch_size or method.skip_incomplete=false"
            )
        super().on_train_epoch_end()

    def loss(self, batch: ViewBatch) -> Loss:
        trunk = self._trunk(batch.view)
        pooled = self._pooled(self._backbone.last_stage, trunk)
        run = self._released_passes if self.passes == "released" else self._joint_passes
        features, logits, branch_logits, latent_logits = run(trunk, pooled, batch.label)

        certainty = self.certainty(self._likeness(pooled, batch.label))
        loss_cls = F.cross_entropy(certainty * logits, batch.label)
        latent = latent_distribution(latent_logits, batch.label, self.temperature)
        off_label = logits.softmax(1).scatter(1, batch.label[:, None], 0.0)
        loss_soft = F.mse_loss(off_label, latent)
        losses = [self._of_branch(c, branch_logits[c], features, batch.label) for c in range(self.num_classes)]
        loss_branches, loss_similarity = (torch.stack(values).mean() for values in zip(*losses, strict=True))
        of_target, of_branches = self.weights(self.current_epoch)
        target = loss_cls + self.soft_weight * loss_soft + self.similarity_weight * loss_similarity
        parts = {"loss_cls": loss_cls, "loss_soft": loss_soft, "loss_similarity": loss_similarity}
        parts["loss_branches"] = loss_branches
        return Loss(of_target * target + of_branches * loss_branches, logits, parts)

    def _released_passes(self, trunk: Tensor, pooled: Tensor, labels: Tensor) -> _Passes:
        is_class = self._is_class(labels).to(pooled.dtype)
        # Samples of other classes, then those of the class; statistics of BatchNorm are updated in this order too.
        groups = [torch.stack([1 - own, own], 1) for own in is_class.unbind(1)]
        of_branches = []
        for branch, members in zip(self.branches, groups, strict=True):
            with groups_apart(branch, members, tracked=2):
                of_branches.append(self._pooled(branch, trunk))
        with torch.autocast(trunk.device.type, enabled=False):
            logits = []
            for own, classifier, members in zip(of_branches, self.branch_classifiers, groups, strict=True):
                with groups_apart(self.neck, members, tracked=1):
                    logits.append(classifier(self.neck(self.dropout(own))))
            # One group, since torch's BatchNorm fails if its statistics are updated before its backward pass.
            with groups_apart(self.neck, torch.ones_like(is_class[:, :1]), tracked=1):
                features = self.neck(self.dropout(pooled))
            with torch.no_grad():
                of_own_branch = (torch.stack(of_branches, 1) * is_class[:, :, None]).sum(1)
                with groups_apart(self.neck, is_class, tracked=self.num_classes):
                    of_own_branch = self.neck(of_own_branch)
                latent = torch.stack([classifier(of_own_branch) for classifier in self.branch_classifiers])
            return _Passes(features, self.network.classifier(features), torch.stack(logits), latent)

    def _joint_passes(self, trunk: Tensor, pooled: Tensor, labels: Tensor) -> _Passes:
        with torch.autocast(trunk.device.type, enabled=False):
            features = self.neck(pooled)
            logits = self.network.classifier(self.dropout(features))
        stacked = []
        for branch, classifier in zip(self.branches, self.branch_classifiers, strict=True):
            own = self._pooled(branch, trunk)
            with torch.autocast(trunk.device.type, enabled=False):
                stacked.append(classifier(self.dropout(self.neck(own))))
        branch_logits = torch.stack(stacked)
        return _Passes(features, logits, branch_logits, branch_logits.detach())

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

    def _is_class(self, labels: Tensor) -> Tensor:
        """Mask (B, K)."""
        return labels[:, None] == torch.arange(self.num_classes, device=labels.device)

    def _likeness(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cosine to the samples of every class in the batch, scaled to 0..1 by row, and the label: (B, 2K)."""
        unit = F.normalize(features, dim=1)
        onehot = self._is_class(labels).to(unit.dtype)
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
