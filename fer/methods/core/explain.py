"""Class activation maps of any method, whatever stands between its feature map and its logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fer.methods.core.method import Method
from fer.models.backbones import Backbone
from fer.models.network import FaceNetwork


class Explanation(NamedTuple):
    """Logits of B views and the maps behind them."""

    logits: Tensor
    """(B, K), as evaluated."""
    cam: Tensor
    """(B, K, h, w), in float32."""


def explain(method: Method, view: Tensor) -> Explanation:
    """Logits and CAM of every class, in evaluation mode and without a gradient left behind.

    A map is ``h * w * sum_c F_c * d logit / d F_c`` of the feature map F (C, h, w): HiResCAM (R. L. Draelos, L. Carin,
    arXiv 2011.08891). Of a linear classifier on averaged features this is exactly the CAM that EAC trains, so that the
    mean over (h, w) and the bias add up to the logit. Where a method averages the logits of two networks, maps are the
    sum of both networks', each with its share; where it also looks at crops (RAN), the map is that of the whole face.

    Args:
        method: any; its mode is restored.
        view: finished views (B, 3, H, W) without augmentation.
    """
    with _evaluating(method), torch.enable_grad():
        with _feature_maps(method) as feature_maps:
            logits = method.classify(view)
        maps = []
        for number in range(logits.shape[1]):
            gradients = torch.autograd.grad(
                logits[:, number].sum(), feature_maps, retain_graph=number + 1 < logits.shape[1]
            )
            maps.append(sum(_weighted(f, g, len(view)) for f, g in zip(feature_maps, gradients, strict=True)))
    return Explanation(logits.detach().float(), torch.stack([torch.as_tensor(m) for m in maps], 1))


@torch.no_grad()
def pooled_features(method: Method, view: Tensor) -> Tensor:
    """Average the feature maps behind the logits of B views over (h, w), in evaluation mode, float32.

    Args:
        method: any; its mode is restored.
        view: finished views (B, 3, H, W) without augmentation.

    Returns:
        (B, C); of two networks that are evaluated together both, (B, 2 C); of a method that also looks at crops (RAN)
        those of the whole face.
    """
    with _evaluating(method), _feature_maps(method) as feature_maps:
        method.classify(view)
    pooled = [features.detach().float().mean((2, 3)) for features in feature_maps]
    return torch.cat([features.view(len(view), -1, features.shape[1])[:, 0] for features in pooled], 1)


def _weighted(features: Tensor, gradient: Tensor, count: int) -> Tensor:
    """Map (B, h, w) of one class; of several regions of a face, which come first, that of the first."""
    height, width = features.shape[2:]
    weighted = (features.detach().float() * gradient.float()).sum(1) * (height * width)
    return weighted.view(count, -1, height, width)[:, 0]


@contextmanager
def _evaluating(method: Method) -> Iterator[None]:
    was_training = {module for module in method.modules() if module.training}
    method.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True


@contextmanager
def _feature_maps(method: Method) -> Iterator[list[Tensor]]:
    """Collect the backbones' feature maps meanwhile, as leaves, so that gradients end there.

    A compiled backbone works as written meanwhile: what has been compiled knows of no hooks.
    """
    made: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        made.append(output.detach().requires_grad_())
        return made[-1]

    networks = [module for module in method.modules() if isinstance(module, FaceNetwork)]
    hooks = [_last_layer(network.backbone).register_forward_hook(keep) for network in networks]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield made
    finally:
        for hook in hooks:
            hook.remove()


def _last_layer(backbone: nn.Module) -> nn.Module:
    """The layer whose output is the feature map, also where a method calls the last stage by itself."""
    layer = backbone.last_stage if isinstance(backbone, Backbone) else backbone
    while isinstance(layer, nn.Sequential):
        layer = layer[-1]
    return layer
