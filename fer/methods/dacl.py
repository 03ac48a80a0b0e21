"""DACL, deep attentive center loss, and the plain center loss.

A. H. Farzaneh, X. Qi, "Facial Expression Recognition in the Wild via Deep Attentive Center Loss", WACV 2021; Y. Wen, K.
Zhang, Z. Li, Y. Qiao, "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method, Setting
from fer.models.network import feature_norm
from fer.ranges import AtLeast0, Share
from fer.views.batch import ViewBatch


def sparse_center_loss(features: Tensor, attention: Tensor, centers: Tensor) -> Tensor:
    """``1 / (2 B) * sum_i sum_d attention[i, d] * (features[i, d] - centers[i, d]) ** 2``, all (B, C)."""
    return (attention * (features - centers).square()).sum() / (2 * len(features))


class DACL(Method):
    """Cross-entropy plus an attention-weighted distance of pooled features to the center of their class.

        L    = CE + lambda * L_SC
        L_SC = 1 / (2 B) * sum_i sum_d A[i, d] * (f[i, d] - c[y_i, d])^2
        c_k <- c_k + alpha * sum_{i of class k} A_i * (f_i - c_k) / (1 + n_k)

    The attention network makes A, in (0, 1), of the feature map. Centers move by their own rule, scaled neither by
    lambda nor by 1 / B, over the n_k samples of a class in the batch, over all ranks.

        symbol  argument        default
        lambda  weight          0.01
        alpha   center_lr       0.5
                initialization  ``released``: centers normal with variance 2 / K (0.53 for seven classes; Kaiming's
                                fan-in of their transpose), attention network Kaiming normal (fan-in) with biases 0;
                                ``plain``: centers standard normal, attention network as torch initializes Linear

    Differences from the released code: for maps other than 512 x 7 x 7 the attention network's widths are in
    proportion. Momentum and weight decay of centers: none, as there.

    Args:
        setting: what the experiment fixes.
        weight: lambda, 0 or more.
        center_lr: alpha, in 0..1.
        attentive: ``False`` = plain center loss (Wen et al.), every weight 1 and no attention network.
        initialization: ``released`` or ``plain``.
    """

    centers: Tensor
    """Float (K, C)."""

    def __init__(
        self,
        setting: Setting,
        *,
        weight: AtLeast0 = 0.01,
        center_lr: Share = 0.5,
        attentive: bool = True,
        initialization: Literal["released", "plain"] = "released",
    ) -> None:
        super().__init__(setting)
        self.weight = weight
        self.center_lr = center_lr
        channels, height, width = self.network.map_shape(self.augmentation.size)
        self.attention = _attention_network(channels, height * width) if attentive else None
        centers = torch.randn(self.num_classes, channels)
        if initialization == "released":
            centers *= math.sqrt(2 / self.num_classes)
            if self.attention is not None:
                _initialize(self.attention)
        self.register_buffer("centers", centers)

    def loss(self, batch: ViewBatch) -> Loss:
        feature_map, logits = self.network(batch.view)
        loss_cls = F.cross_entropy(logits, batch.label)
        with torch.autocast(logits.device.type, enabled=False):
            feature_map = feature_map.to(self.centers.dtype)
            features = feature_map.mean((2, 3))
            attention = torch.ones_like(features) if self.attention is None else self.attention(feature_map)
            loss_center = sparse_center_loss(features, attention, self.centers[batch.label])
        self._move_centers(features.detach(), attention.detach(), batch.label)
        total = loss_cls + self.weight * loss_center
        return Loss(total, logits, {"loss_cls": loss_cls, "loss_center": loss_center})

    @torch.no_grad()
    def _move_centers(self, features: Tensor, attention: Tensor, labels: Tensor) -> None:
        pull = attention * (features - self.centers[labels])
        sums = torch.zeros_like(self.centers).index_add_(0, labels, pull)
        counts = torch.zeros_like(self.centers[:, :1]).index_add_(0, labels, torch.ones_like(pull[:, :1]))
        sums, counts = self.sum_over_ranks(sums), self.sum_over_ranks(counts)
        self.centers += self.center_lr * sums / (1 + counts)


def _attention_network(channels: int, positions: int) -> nn.Module:
    """Feature map (B, C, h, w) -> weights (B, C); for the paper's 512 channels of 7x7 its layers are the paper's."""
    inputs = channels * positions
    hidden = (max(1, inputs // 7), channels, max(1, channels // 8))
    layers: list[nn.Module] = [nn.Flatten()]
    for width, activation in zip(hidden, (nn.ReLU(), nn.ReLU(), nn.Tanh()), strict=True):
        layers += [nn.Linear(inputs, width), feature_norm(width), activation]
        inputs = width
    pairs = [nn.Linear(inputs, 2 * channels), nn.Unflatten(1, (channels, 2)), nn.Softmax(2)]
    return nn.Sequential(*layers, *pairs, _Second())


def _initialize(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)


class _Second(nn.Module):
    def forward(self, pairs: Tensor) -> Tensor:
        return pairs[:, :, 1]
