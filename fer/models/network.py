"""A backbone with the linear classifier that makes its class activation maps exact."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FaceNetwork(nn.Module):
    """Backbone, global average pooling, one Linear with bias.

    Args:
        backbone: x (B, 3, H, W) -> feature map (B, C, h, w), with attribute ``num_features`` = C.
        num_classes: K.
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(int(backbone.num_features), num_classes)  # type: ignore[arg-type]

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Views (B, 3, H, W) -> feature map (B, C, h, w) and logits (B, K).

        The classifier works in the precision of its weight, so that logits and CAM agree under autocast too.
        """
        features: Tensor = self.backbone(view)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.classifier(features.to(self.classifier.weight.dtype).mean((2, 3)))
        return features, logits
