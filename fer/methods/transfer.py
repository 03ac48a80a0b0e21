"""TransFER's two ideas on a convolutional backbone: F. Xue, Q. Wang, G. Guo, "TransFER: Learning Relation-Aware Facial
Expression Representations with Transformers", ICCV 2021, arXiv 2108.11116.

Values of the released code (GitHub youqingxiaozhua/APViT, Paddle/ppcls: model_zoo/trans_fer.py, model_zoo/la_max.py and
configs/RAF/TransFER.yaml).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.methods.core.method import Loss, Method, Setting
from fer.ranges import Above0, CountFrom1, CountFrom2, Share
from fer.views.batch import ViewBatch

HeadDrop = Literal["head", "token"]


def drop_one(values: Tensor, probability: float) -> Tensor:
    """Set one of the parts (B, P, ...) of each sample to 0 with ``probability``, every part equally likely."""
    count, parts = values.shape[:2]
    dropped = torch.rand(count, device=values.device) < probability
    which = torch.rand(count, parts, device=values.device).argmax(1)
    kept = ~(dropped[:, None] & (torch.arange(parts, device=values.device) == which[:, None]))
    return values * kept.view(count, parts, *[1] * (values.dim() - 2))


class LocalAttention(nn.Module):
    """Feature map (B, C, h, w) -> attention map (B, 1, h, w) in (0, 1), by two 1x1 convolutions with BatchNorm."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        attention: Tensor = self.layers(features)
        return attention


class Block(nn.Module):
    """Transformer block (pre-norm) on tokens (B, T, D) whose attention can lose a head, or a token, in training."""

    def __init__(
        self,
        dimensions: int,
        heads: int,
        head_drop: float,
        *,
        head_drop_kind: HeadDrop = "head",
        mlp_ratio: float = 3.0,
        qkv_bias: bool = False,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_drop = head_drop
        self.head_drop_kind = head_drop_kind
        self.norm, self.mlp_norm = (nn.LayerNorm(dimensions, eps=norm_eps) for _ in range(2))
        self.query_key_value = nn.Linear(dimensions, 3 * dimensions, bias=qkv_bias)
        self.out = nn.Linear(dimensions, dimensions)
        inner = int(dimensions * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dimensions, inner), nn.GELU(), nn.Linear(inner, dimensions))

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, dimensions = tokens.shape
        mixed = self.query_key_value(self.norm(tokens)).view(count, length, 3, self.heads, -1)
        if self.training and self.head_drop_kind == "token":
            # The released code confuses the axes of tokens and heads, so it drops one of the first tokens.
            first = min(self.heads, length)
            mixed = torch.cat([drop_one(mixed[:, :first], self.head_drop), mixed[:, first:]], 1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # (B, heads, T, D / heads) each
        attended = F.scaled_dot_product_attention(query, key, value)
        if self.training and self.head_drop_kind == "head":
            attended = drop_one(attended, self.head_drop)
        tokens = tokens + self.out(attended.transpose(1, 2).reshape(count, length, dimensions))
        result: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return result


class TransFER(Method):
    """Cross-entropy of a transformer on the locally attended feature map, with maps and heads dropped in training.

        M_b = sigmoid(BN(conv(ReLU(BN(conv(F))))))   local attention maps, of which MAD drops one with map_drop
        t   = [class token, conv1x1(F * max_b M_b)] + positions
        z   = W LayerNorm(blocks(t))[class token]    blocks lose a head with head_drop (MSAD)

        argument        default, as released (APViT)
        branches        2
        reduction       16, channels of F over those between the two convolutions
        map_drop        0.6 for each sample, one map
        blocks, heads   8, 8
        dimensions      768
        mlp_ratio       3
        qkv_bias        false
        norm_eps        1e-6
        head_drop       0.3 for each sample and block, one head
        head_drop_kind  ``head``, the paper's; ``token``, the released code's, which sets query, key and value of one of
                        the first ``heads`` tokens to 0 instead
        zero_head       true: the classifier starts at 0

    Differences from the released code: features are the experiment's backbone's, not those of an IR-50 without its last
    stage, whose map is 14 x 14 x 256 at 112 pixels (``experiment=transfer_raf_db`` has a map of this shape); layers
    without a start named here start as torch's and not as Paddle's. That the paper's MSAD sets the head's output to 0,
    before the output layer, is an assumption; the released code does not.

    Args:
        setting: what the experiment fixes.
        branches: local attention maps, 2 or more.
        reduction: 1 or more.
        map_drop: probability that a sample loses one of them (MAD), in [0, 1].
        blocks: of the transformer, 1 or more.
        heads: of its attention, 2 or more.
        dimensions: of its tokens, a multiple of ``heads``.
        mlp_ratio: inner over outer width of a block's MLP, above 0.
        qkv_bias: whether queries, keys and values have a bias.
        norm_eps: of LayerNorm, above 0.
        head_drop: probability that a sample loses one of a block's heads (MSAD), in [0, 1].
        head_drop_kind: ``head`` or ``token``.
        zero_head: start the classifier at 0, or as torch does.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        branches: CountFrom2 = 2,
        reduction: CountFrom1 = 16,
        map_drop: Share = 0.6,
        blocks: CountFrom1 = 8,
        heads: CountFrom2 = 8,
        dimensions: CountFrom1 = 768,
        mlp_ratio: Above0 = 3.0,
        qkv_bias: bool = False,
        norm_eps: Above0 = 1e-6,
        head_drop: Share = 0.3,
        head_drop_kind: HeadDrop = "head",
        zero_head: bool = True,
    ) -> None:
        if dimensions < heads or dimensions % heads:
            raise ValueError(f"method.dimensions is {dimensions}; it must be a multiple of method.heads={heads}")
        if dimensions * mlp_ratio < 1:
            raise ValueError(f"method.mlp_ratio is {mlp_ratio}; the MLP must have one unit or more")
        super().__init__(setting)
        channels, height, width = self.network.map_shape(self.augmentation.size)
        self.map_drop = map_drop
        self.local_attentions = nn.ModuleList(LocalAttention(channels, reduction) for _ in range(branches))
        self.to_tokens = nn.Conv2d(channels, dimensions, 1)
        self.class_token = nn.Parameter(torch.empty(1, 1, dimensions))
        self.positions = nn.Parameter(torch.empty(1, 1 + height * width, dimensions))
        for tokens in (self.class_token, self.positions):
            nn.init.trunc_normal_(tokens, std=0.02, a=-0.04, b=0.04)
        made = [
            Block(
                dimensions,
                heads,
                head_drop,
                head_drop_kind=head_drop_kind,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                norm_eps=norm_eps,
            )
            for _ in range(blocks)
        ]
        self.blocks = nn.Sequential(*made)
        self.norm = nn.LayerNorm(dimensions, eps=norm_eps)
        self.network.classifier = nn.Linear(dimensions, self.num_classes)
        if zero_head:
            nn.init.zeros_(self.network.classifier.weight)
            nn.init.zeros_(self.network.classifier.bias)

    def loss(self, batch: ViewBatch) -> Loss:
        logits = self.classify(batch.view)
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
