"""RUL, relative uncertainty learning: Y. Zhang, C. Wang, W. Deng, "Relative Uncertainty Learning for Facial Expression
Recognition", NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method, Setting
from fer.methods.core.parameter_groups import faster
from fer.models.network import feature_norm
from fer.ranges import Above0, CountFrom1, ShareBelow1
from fer.views.batch import Batch, ViewBatch

_EPS = 2e-5


class RUL(Method):
    """Relative Uncertainty Learning (Zhang et al., NeurIPS 2021).

        mu_i, s_i = heads(F_i)                            s the mean of exp of the second head's outputs
        mu        = (s_i mu_i + s_j mu_j) / (s_i + s_j)   j a random partner: the more uncertain face has more weight
        L         = 0.5 (CE(W mu, y_i) + CE(W mu, y_j))

        symbol    argument      default
        dim(mu)   dimensions    64

    A face by itself is classified by ``mu``; its ``s`` is kept as ``uncertainty`` in ``predictions.csv``.
    ``train/acc``, of mixtures against one label, is low by construction. Differences from the released code: none in
    the loss.

    Args:
        setting: what the experiment fixes.
        dimensions: of ``mu`` (paper: 64).
        dropout: before both heads, in [0, 1) (released code: 0.4).
        classifier_lr_factor: learning rate of the classifier over that of the rest, above 0 (released code: 10).
    """

    def __init__(
        self,
        setting: Setting,
        *,
        dimensions: CountFrom1 = 64,
        dropout: ShareBelow1 = 0.4,
        classifier_lr_factor: Above0 = 10.0,
    ) -> None:
        super().__init__(setting)
        channels, height, width = self.network.map_shape(self.augmentation.size)

        def head() -> nn.Module:
            return nn.Sequential(
                nn.BatchNorm2d(channels, eps=_EPS, affine=False),
                nn.Dropout(dropout),
                nn.Flatten(),
                nn.Linear(channels * height * width, dimensions),
                feature_norm(dimensions, eps=_EPS),
            )

        self.mean_head, self.uncertainty_head = head(), head()
        self.network.classifier = nn.Linear(dimensions, self.num_classes)
        self.classifier_lr_factor = classifier_lr_factor

    def parameter_groups(self) -> Iterable[Any]:
        return faster(self, self.network.classifier.parameters(), self.classifier_lr_factor)

    def mean_and_uncertainty(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """``mu`` (B, D) and ``s`` (B, 1), above 0."""
        features = self.network.features(view)
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.network.classifier.weight.dtype)
            mean: Tensor = self.mean_head(features)
            uncertainty: Tensor = self.uncertainty_head(features).exp().mean(1, keepdim=True)
        return mean, uncertainty

    def loss(self, batch: ViewBatch) -> Loss:
        mean, uncertainty = self.mean_and_uncertainty(batch.view)
        partner = torch.randperm(len(mean), device=mean.device)
        share = uncertainty / (uncertainty + uncertainty[partner])
        logits = self._classified(share * mean + (1 - share) * mean[partner])
        total = 0.5 * F.cross_entropy(logits, batch.label) + 0.5 * F.cross_entropy(logits, batch.label[partner])
        return Loss(total, logits, {"uncertainty": uncertainty.mean()})

    def classify(self, view: Tensor) -> Tensor:
        return self._classified(self.mean_and_uncertainty(view)[0])

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        mean, uncertainty = self.mean_and_uncertainty(self.augmentation.test_view(batch.image))
        probabilities = self._classified(mean).softmax(1)
        return {"index": batch.index, "probabilities": probabilities.float(), "uncertainty": uncertainty[:, 0].float()}

    def _classified(self, mean: Tensor) -> Tensor:
        with torch.autocast(mean.device.type, enabled=False):
            logits: Tensor = self.network.classifier(mean)
        return logits
