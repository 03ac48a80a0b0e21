"""Ad-Corre, adaptive correlation loss: A. P. Fard, M. H. Mahoor, "Ad-Corre: Adaptive Correlation-Based Loss for Facial
Expression Recognition in the Wild", IEEE Access 2022.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method, Setting
from fer.ranges import Above0, CountFrom1, CountFrom2, ShareBelow1
from fer.views.batch import ViewBatch

Absent = Literal["batch_mean", "left_out"]


def correlation(rows: Tensor) -> Tensor:
    """Pearson correlation (..., n, n) of the rows of (..., n, D)."""
    unit = F.normalize(rows - rows.mean(-1, keepdim=True), dim=-1)
    return unit @ unit.transpose(-1, -2)


def feature_discriminator(embeddings: Tensor, labels: Tensor, recall: Tensor | None) -> Tensor:
    """Mean over embeddings and pairs of samples of ``weight * |omega - correlation|``.

    Args:
        embeddings: (E, B, D).
        labels: (B,); omega is 1 for a pair of the same label and -1 otherwise.
        recall: (K,) by which a pair weighs ``1 + (1 - recall_i) + (1 - recall_j)``, with the diagonal left out
            (the paper); ``None`` = every pair weighs 1 (the released code).
    """
    omega = 2.0 * (labels[:, None] == labels).to(embeddings.dtype) - 1
    distance = (omega - correlation(embeddings)).abs()
    if recall is not None:
        lack = 1 - recall[labels].to(embeddings.dtype)
        distance = distance * (1 + lack[:, None] + lack)
        distance = distance * (1 - torch.eye(len(labels), dtype=distance.dtype, device=distance.device))
    return distance.mean()


def mean_discriminator(embeddings: Tensor, labels: Tensor, num_classes: int, *, absent: Absent) -> Tensor:
    """Mean over embeddings of ``sum over pairs of classes (1 + correlation of their means) / K ** 2``.

    The diagonal counts as 0.

    Args:
        embeddings: (E, B, D).
        labels: (B,).
        num_classes: K.
        absent: for a class without samples in the batch, ``batch_mean`` takes the mean of the batch as its mean;
            ``left_out`` counts its pairs as 0.
    """
    member = F.one_hot(labels, num_classes).to(embeddings.dtype)
    count = member.sum(0)
    means = (member.T @ embeddings) / count.clamp(min=1)[:, None]  # (E, K, D)
    pairs = 1 - torch.eye(num_classes, dtype=means.dtype, device=means.device)
    there = count > 0
    if absent == "batch_mean":
        means = torch.where(there[:, None], means, embeddings.mean(1, keepdim=True))
    else:
        pairs = pairs * (there[:, None] & there)
    return (pairs * (1 + correlation(means))).mean()


def embedding_discriminator(embeddings: Tensor) -> Tensor:
    """Mean over samples of ``sum over pairs of embeddings (1 + correlation) / E ** 2``, the diagonal counting as 0."""
    of_sample = correlation(embeddings.transpose(0, 1))  # (B, E, E)
    return ((1 + of_sample) * (1 - torch.eye(len(embeddings), dtype=of_sample.dtype, device=of_sample.device))).mean()


class AdCorre(Method):
    """Ad-Corre (Fard and Mahoor, IEEE Access 2022) on k parallel embeddings e_1 ... e_k of the pooled features.

        FD      = mean over embeddings and pairs of samples of w_ij |omega_ij - corr(e(i), e(j))|
        MD      = mean over embeddings and pairs of classes of 1 + corr(mean of e over a, mean of e over b)
        ED      = mean over samples and pairs of embeddings of 1 + corr(e_a, e_b)
        w_ij    = 1 + (1 - recall of i's class) + (1 - recall of j's class)
        L       = lambda CE(z, y) / K + FD + MD + ED

    omega_ij is 1 for samples of one class and -1 for others; z comes from all embeddings, each of unit length, after
    dropout. Pairs of a class or embedding with itself count as 0 in the means.

        symbol    argument      default
        k         embeddings    10 of 256 dimensions
        lambda    ce_weight     50 (released code)

    Differences from the released code: with ``gradients=False, adaptive=False, absent="batch_mean"`` none in loss and
    gradient, apart from the backbone and the data. There FD, MD and ED pass through arrays without gradients, so that
    they do not train anything: the published 86.96 % on RAF-DB comes from cross-entropy of this head alone. With
    ``gradients=True`` the correlation losses work as the paper has them, and from random weights they outweigh
    cross-entropy, which can stay near log K for the first nine epochs. ``adaptive=True`` is the paper's FD, with recall
    over the last ``window`` labels of all ranks; the released code has w = 1.

    Args:
        setting: what the experiment fixes.
        embeddings: k, 2 or more.
        dimensions: of each embedding, 2 or more.
        dropout: before the classifier, in [0, 1) (paper: 0.5).
        ce_weight: lambda, above 0.
        gradients: let the correlation losses train (the paper); ``False``, only add them to the loss (released code).
        absent: mean of a class that the batch lacks, ``batch_mean`` (released code) or ``left_out``.
        adaptive: weigh pairs by recall (the paper); ``False``, alike (released code).
        window: labels that recall is counted over (paper: 1000), to the batch.
    """

    recent: Tensor
    """Float (steps, K, K): counts of label and prediction in the last steps, a ring."""

    def __init__(
        self,
        setting: Setting,
        *,
        embeddings: CountFrom2 = 10,
        dimensions: CountFrom2 = 256,
        dropout: ShareBelow1 = 0.5,
        ce_weight: Above0 = 50.0,
        gradients: bool = True,
        absent: Absent = "batch_mean",
        adaptive: bool = True,
        window: CountFrom1 = 1000,
    ) -> None:
        super().__init__(setting)
        self.embed = nn.Linear(self.network.classifier.in_features, embeddings * dimensions)
        self.dropout = nn.Dropout(dropout)
        self.network.classifier = nn.Linear(embeddings * dimensions, self.num_classes)
        self.embeddings = embeddings
        self.ce_weight = ce_weight
        self.gradients = gradients
        self.absent: Absent = absent
        self.adaptive = adaptive
        self.window = window
        self.register_buffer("recent", torch.zeros(window, self.num_classes, self.num_classes))
        self.register_buffer("sizes", torch.zeros(window))
        self.sizes: Tensor

    def loss(self, batch: ViewBatch) -> Loss:
        embeddings, logits = self._embeddings_and_logits(batch.view)
        loss_cls = F.cross_entropy(logits, batch.label)
        recall = self._recall(logits.detach(), batch.label) if self.adaptive else None
        correlated = embeddings if self.gradients else embeddings.detach()
        loss_fd = feature_discriminator(correlated, batch.label, recall)
        loss_md = mean_discriminator(correlated, batch.label, self.num_classes, absent=self.absent)
        loss_ed = embedding_discriminator(correlated)
        total = self.ce_weight * loss_cls / self.num_classes + loss_fd + loss_md + loss_ed
        parts = {"loss_cls": loss_cls, "loss_fd": loss_fd, "loss_md": loss_md, "loss_ed": loss_ed}
        return Loss(total, logits, parts)

    def classify(self, view: Tensor) -> Tensor:
        return self._embeddings_and_logits(view)[1]

    def _embeddings_and_logits(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (E, B, D) and logits (B, K)."""
        feature_map = self.network.features(view)
        with torch.autocast(view.device.type, enabled=False):
            pooled = feature_map.to(self.embed.weight.dtype).mean((2, 3))
            embeddings = F.normalize(self.embed(pooled).view(len(pooled), self.embeddings, -1), dim=2)
            logits: Tensor = self.network.classifier(self.dropout(embeddings.flatten(1)))
        return embeddings.transpose(0, 1), logits

    def _recall(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the recall (K,) over the window, this batch included; 0 for a class without labels in it."""
        pairs = labels * self.num_classes + logits.argmax(1)
        counts = torch.zeros(self.num_classes**2, dtype=self.recent.dtype, device=self.recent.device)
        counts.index_add_(0, pairs, torch.ones_like(pairs, dtype=counts.dtype))
        counts = self.sum_over_ranks(counts)
        self.recent.copy_(torch.cat([counts.view(1, self.num_classes, -1), self.recent[:-1]]))
        self.sizes.copy_(torch.cat([counts.sum()[None], self.sizes[:-1]]))
        # Newest first; a step counts while those after it have not filled the window.
        inside = (self.sizes.cumsum(0) - self.sizes < self.window).to(counts.dtype)
        confusion = (inside[:, None, None] * self.recent).sum(0)
        return confusion.diag() / confusion.sum(1).clamp(min=1)
