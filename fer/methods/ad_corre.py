"""Ad-Corre, adaptive correlation loss: A. P. Fard, M. H. Mahoor, "Ad-Corre: Adaptive Correlation-Based Loss for Facial
Expression Recognition in the Wild", IEEE Access 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.batch import Batch
from fer.methods.base import Loss, Method, Setting


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


def mean_discriminator(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean over embeddings of ``sum over pairs of classes (1 + correlation of their means) / K ** 2``.

    Only classes in the batch have means; the diagonal counts as 0.
    """
    member = F.one_hot(labels, num_classes).to(embeddings.dtype)
    count = member.sum(0)
    means = (member.T @ embeddings) / count.clamp(min=1)[:, None]  # (E, K, D)
    there = (count > 0).to(embeddings.dtype)
    pairs = there[:, None] * there * (1 - torch.eye(num_classes, dtype=there.dtype, device=there.device))
    return (pairs * (1 + correlation(means))).mean()


def embedding_discriminator(embeddings: Tensor) -> Tensor:
    """Mean over samples of ``sum over pairs of embeddings (1 + correlation) / E ** 2``, the diagonal counting as 0."""
    of_sample = correlation(embeddings.transpose(0, 1))  # (B, E, E)
    return ((1 + of_sample) * (1 - torch.eye(len(embeddings), dtype=of_sample.dtype, device=of_sample.device))).mean()


class AdCorre(Method):
    """``ce_weight * CE / K`` plus three correlation losses of parallel embeddings of the pooled features.

    Samples of one class shall correlate and others not (FD), the means of classes shall not (MD), nor the embeddings
    of one sample (ED). All have gradients here; in the released code they pass through arrays without any, so that it
    trains plain cross-entropy. Recall comes from the last ``window`` labels, counted over all ranks.

    Args:
        setting: what the experiment fixes.
        embeddings: E, 2 or more (paper: 10).
        dimensions: of each, 2 or more (paper: 256).
        dropout: before the classifier, in [0, 1) (paper: 0.5).
        ce_weight: above 0 (released code: 50).
        adaptive: weigh pairs by recall (the paper); ``False`` = as released.
        window: labels that recall is counted over (paper: 1000), to the batch.

    Raises:
        ValueError: a value outside its range.
    """

    recent: Tensor
    """Float (steps, K, K): counts of label and prediction in the last steps, a ring."""

    def __init__(
        self,
        setting: Setting,
        *,
        embeddings: int = 10,
        dimensions: int = 256,
        dropout: float = 0.5,
        ce_weight: float = 50.0,
        adaptive: bool = True,
        window: int = 1000,
    ) -> None:
        for name, number in (("embeddings", embeddings), ("dimensions", dimensions)):
            if number < 2:
                raise ValueError(f"method.{name} is {number}; it must be 2 or more")
        if not 0 <= dropout < 1:
            raise ValueError(f"method.dropout is {dropout}; it must lie in [0, 1)")
        if not ce_weight > 0 or window < 1:
            raise ValueError(f"method.ce_weight is {ce_weight} and method.window {window}; both must be above 0")
        super().__init__(setting)
        self.embed = nn.Linear(self.network.classifier.in_features, embeddings * dimensions)
        self.dropout = nn.Dropout(dropout)
        self.network.classifier = nn.Linear(embeddings * dimensions, self.num_classes)
        self.embeddings = embeddings
        self.ce_weight = ce_weight
        self.adaptive = adaptive
        self.window = window
        self.register_buffer("recent", torch.zeros(window, self.num_classes, self.num_classes))
        self.register_buffer("sizes", torch.zeros(window))
        self.sizes: Tensor

    def loss(self, batch: Batch) -> Loss:
        assert isinstance(batch.image, Tensor)
        embeddings, logits = self._embeddings_and_logits(batch.image)
        loss_cls = F.cross_entropy(logits, batch.label)
        recall = self._recall(logits.detach(), batch.label) if self.adaptive else None
        loss_fd = feature_discriminator(embeddings, batch.label, recall)
        loss_md = mean_discriminator(embeddings, batch.label, self.num_classes)
        loss_ed = embedding_discriminator(embeddings)
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
        """(K,) over the window, this batch included; 0 for a class without labels in it."""
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
