"""RAN, region attention network: K. Wang, X. Peng, J. Yang, D. Meng, Y. Qiao, "Region Attention Networks for Pose and
Occlusion Robust Facial Expression Recognition", TIP 2020, arXiv 1905.04075.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method, Setting
from fer.ranges import AtLeast0, CountFrom1, ShareBetween
from fer.views.batch import ViewBatch

Crops = Literal["released", "fixed", "random"]
Passes = Literal["separate", "joint"]
RegionLoss = Literal["softmax", "sigmoid"]

RELEASED_CROPS = (
    (0.0, 0.0, 0.75),  # top left
    (0.0, 1.0, 0.75),  # top right
    (1.0, 0.5, 0.75),  # center down
    (0.0, 0.5, 0.75),  # center top
    (0.5, 0.5, 0.9),  # centers
    (0.5, 0.5, 0.8),
    (0.5, 0.5, 0.75),
)
"""Crops of the released generator in its order: position (row, column) from 0 at the top left to 1, and edge."""
FIXED_CROPS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
"""Positions of the four corners and the center."""


class RAN(Method):
    """Region attention over the whole face (i = 0) and its crops (i = 1 ... k) (Wang et al., TIP 2020).

        mu_i  = sigmoid(q_0 . F_i)                                    self-attention
        F_m   = sum_i mu_i F_i / sum_i mu_i
        nu_i  = sigmoid(q_1 . [F_i; F_m])                             relation attention
        P     = sum_i mu_i nu_i [F_i; F_m] / sum_i mu_i nu_i          classified representation
        L_RB  = max(0, alpha - (max_{i > 0} mu_i - mu_0))             region-biased loss
        L     = CE(W P, y) + L_RB

        symbol    argument     default
        k         num_crops    5
        alpha     margin       0.1 (released FERPlus model; 0.03 and 0.02 in the AffectNet ones)

    Differences from the released code: none in loss, gradient and BatchNorm statistics with the defaults, given the
    same regions. ``softmax=False`` takes mu and nu as the formulas stand, ``region_loss="sigmoid"`` takes L_RB before
    the softmax, and ``passes="joint"`` normalizes all regions by common batch statistics. Regions are assumptions in
    part. The released generator makes seven crops and the network takes five; which five is not known, and here they
    are the first ``num_crops``. A crop is a square cut from the finished view, not from the stored image, its edge is
    rounded to pixels, "down" and "top" touch that border and are centered sideways, and bilinear interpolation
    enlarges it to the size of the view. The whole face passes the network first, then the crops in order, which
    matters for the running statistics of BatchNorm alone.

    Args:
        setting: what the experiment fixes.
        crops: ``released``, the crops of the released generator; ``fixed``, the four corners and the center;
            ``random``, anywhere in training, ``fixed`` in tests.
        num_crops: k, 1 or more; at most 7 of ``released``, 5 of ``fixed`` and ``random``.
        crop_size: edge of a ``fixed`` or ``random`` crop over that of the view, in (0, 1). An assumption: 0.75.
        margin: alpha, 0 or more.
        softmax: take a softmax of each attention over the regions (released code); ``False``, the formulas.
        region_loss: compare mu in L_RB after a ``softmax`` over the regions (released code) or as the ``sigmoid``.
        passes: ``separate``, one pass of the network per region, each with its own batch statistics (released code);
            ``joint``, one pass over all regions, which is another algorithm. No difference in evaluation.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        crops: Crops = "released",
        num_crops: CountFrom1 = 5,
        crop_size: ShareBetween = 0.75,
        margin: AtLeast0 = 0.1,
        softmax: bool = True,
        region_loss: RegionLoss = "softmax",
        passes: Passes = "separate",
    ) -> None:
        most = len(RELEASED_CROPS) if crops == "released" else len(FIXED_CROPS)
        if not 1 <= num_crops <= most:
            raise ValueError(f"method.num_crops is {num_crops}; there are 1 to {most} with method.crops={crops}")
        super().__init__(setting)
        channels = self.network.classifier.in_features
        self.self_attention = nn.Linear(channels, 1)
        self.relation_attention = nn.Linear(2 * channels, 1)
        self.network.classifier = nn.Linear(2 * channels, self.num_classes)
        self.crops = crops
        self.num_crops = num_crops
        self.crop_size = crop_size
        self.margin = margin
        self.softmax = softmax
        self.region_loss = region_loss
        self.passes = passes

    def loss(self, batch: ViewBatch) -> Loss:
        logits, attention = self._logits_and_attention(batch.view)
        loss_cls = F.cross_entropy(logits, batch.label)
        if self.region_loss == "softmax":
            attention = attention.softmax(1)
        loss_region = (self.margin - (attention[:, 1:].amax(1) - attention[:, 0])).clamp(min=0).mean()
        return Loss(loss_cls + loss_region, logits, {"loss_cls": loss_cls, "loss_region": loss_region})

    def classify(self, view: Tensor) -> Tensor:
        return self._logits_and_attention(view)[0]

    def regions(self, view: Tensor) -> Tensor:
        """Cut the crops: views (B, 3, H, W) -> the whole and the crops (B, 1 + k, 3, H, W)."""
        size = view.shape[-1]
        crops = []
        for top, left, edge in self._squares(size):
            crop = view[..., top : top + edge, left : left + edge]
            crops.append(F.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False))
        return torch.stack([view, *crops], 1)

    def _squares(self, size: int) -> list[tuple[int, int, int]]:
        """Top, left and edge in pixels of every crop of a view of ``size`` pixels."""
        if self.crops == "released":
            edges = [(row, column, _edge(share, size)) for row, column, share in RELEASED_CROPS[: self.num_crops]]
            return [(int(row * (size - edge)), int(column * (size - edge)), edge) for row, column, edge in edges]
        edge = _edge(self.crop_size, size)
        far = size - edge
        if self.crops == "random" and self.training:
            # Drawn on the CPU, so that the host need not wait for the device; equal for all samples of a batch.
            return [(top, left, edge) for top, left in torch.randint(far + 1, (self.num_crops, 2)).tolist()]
        return [(int(row * far), int(column * far), edge) for row, column in FIXED_CROPS[: self.num_crops]]

    def _logits_and_attention(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and ``mu`` before any softmax, (B, 1 + k), the whole face first."""
        regions = self.regions(view)
        if self.passes == "separate" and self.training:
            feature_maps = torch.stack([self.network.features(region) for region in regions.unbind(1)], 1)
        else:
            joint = self.network.features(regions.flatten(0, 1))
            feature_maps = joint.view(*regions.shape[:2], *joint.shape[1:])
        with torch.autocast(view.device.type, enabled=False):
            features = feature_maps.to(self.network.classifier.weight.dtype).mean((3, 4))  # (B, 1 + k, C)
            attention: Tensor = self.self_attention(features).sigmoid()[:, :, 0]
            whole = _weighted_mean(features, self._over_regions(attention))
            both = torch.cat([features, whole[:, None].expand_as(features)], 2)
            relation = self.relation_attention(both).sigmoid()[:, :, 0]
            weight = self._over_regions(attention) * self._over_regions(relation)
            logits: Tensor = self.network.classifier(_weighted_mean(both, weight))
        return logits, attention

    def _over_regions(self, attention: Tensor) -> Tensor:
        return attention.softmax(1) if self.softmax else attention


def _edge(share: float, size: int) -> int:
    return max(1, round(share * size))


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Average (B, R, C) over the regions by weights (B, R)."""
    return (weight[:, :, None] * values).sum(1) / weight.sum(1, keepdim=True)
