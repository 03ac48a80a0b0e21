"""Class activation maps (CAM, Zhou et al., CVPR 2016) as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

HEAT = "turbo"
"""Colour map (matplotlib) in which blue is little and red is much."""


def class_activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    """CAM of every class: ``M[n, k, i, j] = sum_c weight[k, c] * features[n, c, i, j]``.

    No bias, no ReLU, no normalisation, so that ``M.mean((2, 3)) + bias`` are the logits of a linear classifier on
    globally averaged features.

    Args:
        features: feature map (B, C, h, w).
        weight: classifier weight (K, C); pass it detached where no gradient may reach the classifier.

    Returns:
        (B, K, h, w) in the precision of ``weight``, also inside autocast.
    """
    # A 1x1 convolution is fast in both memory formats; a broadcast product would hold (B, K, C, h, w).
    with torch.autocast(features.device.type, enabled=False):
        return F.conv2d(features.to(weight.dtype), weight[:, :, None, None])


def mirror(maps: Tensor) -> Tensor:
    """Mirror images or maps (..., w) along their width."""
    return maps.flip(-1)


def heat_colours(maps: Tensor, height: int, width: int, *, colour_map: str = HEAT) -> Tensor:
    """Maps as pictures, from the first colour for a map's least value to the last one for its greatest.

    A map is enlarged bilinearly and stretched between the two, so that colours compare places within a face but not
    faces; a flat map is shown as its middle.

    Args:
        maps: (B, h, w).
        height, width: of the pictures.
        colour_map: of matplotlib.

    Returns:
        uint8 (B, 3, height, width).
    """
    from matplotlib import colormaps

    enlarged = F.interpolate(maps[:, None].float(), size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    least, most = enlarged.amin((1, 2), keepdim=True), enlarged.amax((1, 2), keepdim=True)
    is_flat = most - least <= 1e-5 * torch.maximum(most.abs(), least.abs())
    heat = torch.where(is_flat, 0.5, (enlarged - least) / (most - least).clamp(min=1e-12))
    colours = torch.as_tensor(colormaps[colour_map](range(256), bytes=True)[:, :3], device=maps.device)
    steps = (heat * 255).round().long()
    return torch.stack([channel[steps] for channel in colours.T.contiguous()], 1)


def overlay(image: Tensor, maps: Tensor, *, strength: float = 0.5, colour_map: str = HEAT) -> Tensor:
    """Faces with a map of each laid over them in the colours of ``heat_colours``.

    Args:
        image: uint8 (B, 3, H, W).
        maps: (B, h, w).
        strength: share of the colours in the mixture, 0..1.
        colour_map: of matplotlib.

    Returns:
        uint8 (B, 3, H, W).
    """
    colours = heat_colours(maps, image.shape[-2], image.shape[-1], colour_map=colour_map)
    return ((1 - strength) * image + strength * colours).round().to(torch.uint8)
