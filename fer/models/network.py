"""A backbone with the linear classifier that makes its class activation maps exact."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FaceNetwork(nn.Module):
    """Backbone, global average pooling, one Linear with bias.

    Args:
        backbone: x (B, 3, H, W) -> feature map (B, C, h, w), with attribute ``num_features`` = C.
        num_classes: K.
        channels_last: lay weights and activations out as NHWC, which convolutions work faster on.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, *, channels_last: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(int(backbone.num_features), num_classes)  # type: ignore[arg-type]
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Views (B, 3, H, W) -> feature map (B, C, h, w) and logits (B, K).

        The classifier works in the precision of its weight, so that logits and CAM agree under autocast too.
        """
        features: Tensor = self.backbone(view.contiguous(memory_format=self.memory_format))
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.classifier(features.to(self.classifier.weight.dtype).mean((2, 3)))
        return features, logits
