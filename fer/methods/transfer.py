"""TransFER's two ideas on a convolutional backbone: F. Xue, Q. Wang, G. Guo, "TransFER: Learning Relation-Aware Facial
Expression Representations with Transformers", ICCV 2021, arXiv 2108.11116.

Known to the project are the parts and their order: local attention maps of which one is dropped at random in training
(MAD), a 1x1 convolution to tokens, a transformer whose attention heads are dropped at random (MSAD), a linear head.
That maps and heads are dropped for each sample, one at a time, that maps are joined by their maximum, and all numbers
are assumptions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.batch import Batch
from fer.methods.base import Loss, Method, Setting


def drop_one(values: Tensor, probability: float) -> Tensor:
    """Set one of the parts (B, P, ...) of each sample to 0 with ``probability``, every part equally likely."""
    count, parts = values.shape[:2]
    dropped = torch.rand(count, device=values.device) < probability
    which = torch.rand(count, parts, device=values.device).argmax(1)
    kept = ~(dropped[:, None] & (torch.arange(parts, device=values.device) == which[:, None]))
    return values * kept.view(count, parts, *[1] * (values.dim() - 2))


class LocalAttention(nn.Module):
    """Feature map (B, C, h, w) -> attention map (B, 1, h, w) in (0, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, 1, 1), nn.Sigmoid()
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        attention: Tensor = self.layers(features)
        return attention


class Block(nn.Module):
    """Transformer block (pre-norm) on tokens (B, T, D) whose attention can lose a head in training."""

    def __init__(self, dimensions: int, heads: int, head_drop: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_drop = head_drop
        self.norm, self.mlp_norm = nn.LayerNorm(dimensions), nn.LayerNorm(dimensions)
        self.query_key_value = nn.Linear(dimensions, 3 * dimensions)
        self.out = nn.Linear(dimensions, dimensions)
        self.mlp = nn.Sequential(
            nn.Linear(dimensions, 4 * dimensions), nn.GELU(), nn.Linear(4 * dimensions, dimensions)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, dimensions = tokens.shape
        mixed = self.query_key_value(self.norm(tokens)).view(count, length, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # (B, heads, T, D / heads) each
        attended = F.scaled_dot_product_attention(query, key, value)
        if self.training:
            attended = drop_one(attended, self.head_drop)
        tokens = tokens + self.out(attended.transpose(1, 2).reshape(count, length, dimensions))
        result: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return result


class TransFER(Method):
    """Cross-entropy of a transformer on the locally attended feature map, with maps and heads dropped in training.

    Args:
        setting: what the experiment fixes.
        branches: local attention maps, 2 or more.
        map_drop: probability that a sample loses one of them (MAD), in [0, 1].
        blocks: of the transformer, 1 or more.
        heads: of its attention, 2 or more.
        dimensions: of its tokens, a multiple of ``heads``.
        head_drop: probability that a sample loses one of a block's heads (MSAD), in [0, 1].

    Raises:
        ValueError: a value outside its range.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        branches: int = 2,
        map_drop: float = 0.6,
        blocks: int = 8,
        heads: int = 8,
        dimensions: int = 256,
        head_drop: float = 0.3,
    ) -> None:
        for name, number, least in (("branches", branches, 2), ("blocks", blocks, 1), ("heads", heads, 2)):
            if number < least:
                raise ValueError(f"method.{name} is {number}; it must be {least} or more")
        for name, probability in (("map_drop", map_drop), ("head_drop", head_drop)):
            if not 0 <= probability <= 1:
                raise ValueError(f"method.{name} is {probability}; it must lie in 0..1")
        if dimensions < heads or dimensions % heads:
            raise ValueError(f"method.dimensions is {dimensions}; it must be a multiple of method.heads={heads}")
        super().__init__(setting)
        channels, height, width = self.network.map_shape(self.augmentation.size)
        self.map_drop = map_drop
        self.local_attentions = nn.ModuleList(LocalAttention(channels) for _ in range(branches))
        self.to_tokens = nn.Conv2d(channels, dimensions, 1)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dimensions))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + height * width, dimensions))
        self.blocks = nn.Sequential(*(Block(dimensions, heads, head_drop) for _ in range(blocks)))
        self.norm = nn.LayerNorm(dimensions)
        self.network.classifier = nn.Linear(dimensions, self.num_classes)

    def loss(self, batch: Batch) -> Loss:
        assert isinstance(batch.image, Tensor)
        logits = self.classify(batch.image)
        loss_cls = F.cross_entropy(logits, batch.label)
        return Loss(loss_cls, logits, {"loss_cls": loss_cls})

    def classify(self, view: Tensor) -> Tensor:
        features = self.network.features(view)
        maps = torch.stack([attention(features) for attention in self.local_attentions], 1)  # (B, branches, 1, h, w)
        if self.training:
            maps = drop_one(maps, self.map_drop)
        patches = self.to_tokens(maps.amax(1) * features).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1).to(patches.dtype), patches], 1)
        of_class = self.norm(self.blocks(tokens + self.positions))[:, 0]
        with torch.autocast(view.device.type, enabled=False):
            logits: Tensor = self.network.classifier(of_class.to(self.network.classifier.weight.dtype))
        return logits
