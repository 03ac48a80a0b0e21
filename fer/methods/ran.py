"""RAN, region attention network: K. Wang, X. Peng, J. Yang, D. Meng, Y. Qiao, "Region Attention Networks for Pose and
Occlusion Robust Facial Expression Recognition", TIP 2020, arXiv 1905.04075.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.batch import Batch
from fer.methods.base import Loss, Method, Setting

Crops = Literal["fixed", "random"]
NUM_CROPS = 5


class RAN(Method):
    """Classifies a face by its whole and five crops, weighted by two attentions.

    Self-attention: ``mu_i = sigmoid(Linear(F_i))`` for region i's pooled features, and ``F_m`` their weighted mean.
    Relation attention: ``nu_i = sigmoid(Linear([F_i; F_m]))``. Classified is the mean of ``[F_i; F_m]`` weighted by
    ``mu_i nu_i``. The region-biased loss ``max(0, margin - (largest mu of a crop - mu of the whole))`` is added with
    weight 1. The released code takes a softmax of both attentions over the regions (``softmax=True``); the loss is
    taken before it here, which is an assumption.

    Regions are cut from the finished view and enlarged to its size. Test and training cost six passes.

    Args:
        setting: what the experiment fixes.
        crops: ``fixed``, the four corners and the centre; ``random``, anywhere in training, fixed in tests.
        crop_size: edge of a crop over that of the view, in (0, 1). An assumption: 0.75.
        margin: 0 or more (released code: 0.1).
        softmax: as the released code; ``False`` as the formulas stand.

    Raises:
        ValueError: a value outside its range.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        crops: Crops = "fixed",
        crop_size: float = 0.75,
        margin: float = 0.1,
        softmax: bool = True,
    ) -> None:
        if crops not in ("fixed", "random"):
            raise ValueError(f"method.crops is {crops!r}; choose fixed or random")
        if not 0 < crop_size < 1:
            raise ValueError(f"method.crop_size is {crop_size}; it must lie between 0 and 1")
        if not margin >= 0:
            raise ValueError(f"method.margin is {margin}; it must be 0 or more")
        super().__init__(setting)
        channels = self.network.classifier.in_features
        self.self_attention = nn.Linear(channels, 1)
        self.relation_attention = nn.Linear(2 * channels, 1)
        self.network.classifier = nn.Linear(2 * channels, self.num_classes)
        self.crops = crops
        self.crop_size = crop_size
        self.margin = margin
        self.softmax = softmax

    def loss(self, batch: Batch) -> Loss:
        assert isinstance(batch.image, Tensor)
        logits, attention = self._logits_and_attention(batch.image)
        loss_cls = F.cross_entropy(logits, batch.label)
        loss_region = (self.margin - (attention[:, 1:].amax(1) - attention[:, 0])).clamp(min=0).mean()
        return Loss(loss_cls + loss_region, logits, {"loss_cls": loss_cls, "loss_region": loss_region})

    def classify(self, view: Tensor) -> Tensor:
        return self._logits_and_attention(view)[0]

    def regions(self, view: Tensor) -> Tensor:
        """The view and its crops, (B, 6, 3, H, W)."""
        size = view.shape[-1]
        edge = max(1, round(self.crop_size * size))
        far = size - edge
        if self.crops == "random" and self.training:
            # Drawn on the CPU, so that no device is waited for; alike for the samples of a batch.
            places = torch.randint(far + 1, (NUM_CROPS, 2)).tolist()
        else:
            places = [[0, 0], [0, far], [far, 0], [far, far], [far // 2, far // 2]]
        crops = [view[..., top : top + edge, left : left + edge] for top, left in places]
        enlarged = [F.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False) for crop in crops]
        return torch.stack([view, *enlarged], 1)

    def _logits_and_attention(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and ``mu`` before any softmax, (B, 6), the whole face first."""
        regions = self.regions(view)
        feature_map = self.network.features(regions.flatten(0, 1))
        with torch.autocast(view.device.type, enabled=False):
            features = feature_map.to(self.network.classifier.weight.dtype).mean((2, 3))
            features = features.view(*regions.shape[:2], -1)  # (B, 6, C)
            attention: Tensor = self.self_attention(features).sigmoid()[:, :, 0]
            whole = _weighted_mean(features, self._over_regions(attention))
            both = torch.cat([features, whole[:, None].expand_as(features)], 2)
            relation = self.relation_attention(both).sigmoid()[:, :, 0]
            weight = self._over_regions(attention) * self._over_regions(relation)
            logits: Tensor = self.network.classifier(_weighted_mean(both, weight))
        return logits, attention

    def _over_regions(self, attention: Tensor) -> Tensor:
        return attention.softmax(1) if self.softmax else attention


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Of (B, R, C) over the regions, by weights (B, R)."""
    return (weight[:, :, None] * values).sum(1) / weight.sum(1, keepdim=True)
