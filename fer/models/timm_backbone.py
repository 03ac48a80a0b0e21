"""Models of the timm package as backbones: convolutional networks, and transformers whose tokens lie on a grid."""

from __future__ import annotations

import difflib
import math
from typing import Any

import torch
from torch import Tensor, nn

from fer.errors import ConfigError
from fer.models.weights.load import LoadReport, load_backbone_weights
from fer.ranges import ViewSize


class TimmBackbone(nn.Module):
    """A timm model up to its last feature map, (B, 3, H, W) -> (B, C, h, w).

    Args:
        model: without classifier.
        name: by which timm knows it.
    """

    weights_report: LoadReport | None = None

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.name = f"timm/{name}"
        self.model = model
        self.num_features = int(model.num_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the feature map; tokens that stand for no place are left out.

        Raises:
            ConfigError: the model makes no map.
        """
        features: Any = self.model.forward_features(x)  # type: ignore[operator]
        shape = tuple(getattr(features, "shape", ()))
        if len(shape) == 4 and shape[1] == self.num_features:
            channels_first: Tensor = features
            return channels_first
        if len(shape) == 4 and shape[3] == self.num_features:
            moved: Tensor = features.permute(0, 3, 1, 2)
            return moved
        if len(shape) == 3 and shape[2] == self.num_features:
            tokens = features[:, int(getattr(self.model, "num_prefix_tokens", 0) or 0) :]
            edge = math.isqrt(tokens.shape[1])
            if edge * edge == tokens.shape[1]:
                folded: Tensor = tokens.transpose(1, 2).unflatten(2, (edge, edge))
                return folded
        raise ConfigError(f"backbone.name={self.name.removeprefix('timm/')} makes no feature map but {shape}; "
                          "choose another model")  # fmt: skip


def timm_backbone(
    *,
    name: str,
    image_size: ViewSize,
    weights: str | None = None,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> TimmBackbone:
    """Build a model of timm (Wightman, github.com/huggingface/pytorch-image-models) from random weights or a file.

    Nothing is downloaded. Methods with branches of the last stage (DMUE) need another backbone.

    Args:
        name: such as ``convnext_atto``; ``timm.list_models()`` lists them.
        image_size: edge of the views in pixels, for models that are made for one size.
        weights: a file (``.safetensors``, ``.pth``) or a run folder.
        allow_partial_weights, weights_sha256: see ``load_backbone_weights``.

    Raises:
        ConfigError: timm is not installed, or has no such model for this size.
        WeightsError: see ``load_backbone_weights``.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError('backbone=timm needs timm: pip install "noisy-label-fer[timm]"') from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 5)
        raise ConfigError(f"backbone.name={name}: timm has no such model; perhaps {', '.join(near)}")
    backbone = _made(timm.create_model, name, image_size)
    if weights is not None:
        backbone.weights_report = load_backbone_weights(
            backbone.model,
            weights,
            name=backbone.name,
            allow_partial_weights=allow_partial_weights,
            weights_sha256=weights_sha256,
        )
    return backbone


def _made(create: Any, name: str, image_size: int) -> TimmBackbone:
    """Create a model for views of a size; convolutional ones take any and know no such argument."""
    try:
        try:
            model: nn.Module = create(name, pretrained=False, num_classes=0, img_size=image_size)
        except TypeError:
            model = create(name, pretrained=False, num_classes=0)
        if not isinstance(getattr(model, "num_features", None), int) or not hasattr(model, "forward_features"):
            raise ConfigError(f"backbone.name={name} has no feature map; choose another model")
        backbone = TimmBackbone(model, name)
        _drop_unused_layers(backbone, image_size)
    except (AssertionError, ValueError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"backbone.name={name} cannot be made for augment.size={image_size}: {' '.join(str(error).split())}"
        ) from error
    return backbone


def _drop_unused_layers(backbone: TimmBackbone, image_size: int) -> None:
    """Take away the layers behind the feature map: training would not reach them, and processes would wait for them."""
    backbone.eval()
    backbone(torch.zeros(1, 3, image_size, image_size)).sum().backward()
    for name, child in [*backbone.model.named_children()]:
        own = [*child.parameters()]
        if own and all(parameter.grad is None for parameter in own):
            setattr(backbone.model, name, nn.Identity())
    for parameter in backbone.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    backbone.train()
