"""A backbone with the linear classifier that makes its class activation maps exact."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fer.errors import ConfigError


class FaceNetwork(nn.Module):
    """Backbone, global average pooling, one Linear with bias.

    A method with a head of its own replaces ``classifier`` and calls ``features``.

    Args:
        backbone: x (B, 3, H, W) -> feature map (B, C, h, w), with attribute ``num_features`` = C.
        num_classes: K.
        channels_last: lay weights and activations out as NHWC, which convolutions work faster on.

    Raises:
        ConfigError: the backbone does not say how many features it makes.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, *, channels_last: bool = True) -> None:
        super().__init__()
        self.num_features = getattr(backbone, "num_features", None)
        if not isinstance(self.num_features, int):
            raise ConfigError(
                f"the backbone, {type(backbone).__name__}, has no attribute num_features: it must turn views "
                "(B, 3, H, W) into a feature map (B, num_features, h, w)"
            )
        self.backbone = backbone
        self.classifier = nn.Linear(self.num_features, num_classes)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Views (B, 3, H, W) -> feature map (B, C, h, w) and logits (B, K).

        The classifier works in the precision of its weight, so that logits and CAM agree under autocast too.
        """
        features = self.features(view)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.classifier(features.to(self.classifier.weight.dtype).mean((2, 3)))
        return features, logits

    def features(self, view: Tensor) -> Tensor:
        """The feature map (B, C, h, w) alone, for methods with a head of their own."""
        features: Tensor = self.backbone(view.contiguous(memory_format=self.memory_format))
        return features

    @torch.no_grad()
    def map_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the feature map of views of ``size`` pixels.

        Raises:
            ConfigError: the backbone makes no such map.
        """
        was_training = self.training
        features = self.eval().backbone.forward(torch.zeros(1, 3, size, size))  # the plain module, not the compiled one
        self.train(was_training)
        if features.dim() != 4 or features.shape[1] != self.num_features:
            raise ConfigError(
                f"the backbone, {type(self.backbone).__name__}, makes {tuple(features.shape)} of a view of {size} "
                f"pixels; a feature map (1, {self.num_features}, h, w) is needed for class activation maps"
            )
        _, channels, height, width = features.shape
        return channels, height, width


def feature_norm(channels: int, *, eps: float = 1e-5, frozen_bias: bool = False) -> nn.Module:
    """BatchNorm of feature vectors (B, channels): two-dimensional inside, so that ranks can share its statistics."""
    norm = nn.BatchNorm2d(channels, eps=eps)
    norm.bias.requires_grad_(not frozen_bias)
    return nn.Sequential(nn.Unflatten(1, (channels, 1, 1)), norm, nn.Flatten())
