"""Maps as pictures, and laid over faces."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

HEAT = "turbo"
"""Color map (matplotlib) in which blue is little and red is much."""


def heat_colors(maps: Tensor, height: int, width: int, *, color_map: str = HEAT) -> Tensor:
    """Maps as pictures, from the first color for a map's least value to the last one for its greatest.

    A map is enlarged bilinearly and stretched between the two, so that colors compare places within a face but not
    faces; a flat map is shown as its middle.

    Args:
        maps: (..., h, w).
        height, width: of the pictures.
        color_map: of matplotlib.

    Returns:
        uint8 (..., 3, height, width).
    """
    from matplotlib import colormaps

    small = maps.float().reshape(1, -1, *maps.shape[-2:])  # one image with B channels: three times as fast on CPUs
    enlarged = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    enlarged = enlarged.view(*maps.shape[:-2], height, width)
    least, most = enlarged.amin((-2, -1), keepdim=True), enlarged.amax((-2, -1), keepdim=True)
    is_flat = most - least <= 1e-5 * torch.maximum(most.abs(), least.abs())
    scale = 255 * ~is_flat / (most - least).clamp(min=1e-12)
    steps = enlarged.sub_(least).mul_(scale).add_(127.5 * is_flat).round_().long()
    colors = torch.as_tensor(colormaps[color_map](range(256), bytes=True)[:, :3], device=maps.device)
    return torch.stack([channel.take(steps) for channel in colors.T.contiguous()], -3)


def overlay(image: Tensor, maps: Tensor, *, strength: float = 0.5, color_map: str = HEAT) -> Tensor:
    """Faces with a map of each laid over them in the colors of ``heat_colors``.

    Args:
        image: uint8 (B, 3, H, W).
        maps: (..., B, h, w), several of every face where there are more axes.
        strength: share of the colors in the mixture, 0..1.
        color_map: of matplotlib.

    Returns:
        uint8 (..., B, 3, H, W).
    """
    colors = heat_colors(maps, image.shape[-2], image.shape[-1], color_map=color_map)
    return torch.add((1 - strength) * image, colors, alpha=strength).round_().to(torch.uint8)
