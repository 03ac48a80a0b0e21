"""Maps as pictures, and laid over faces."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

HEAT = "turbo"
"""Color map (matplotlib) in which blue is little and red is much."""


def heat_colours(maps: Tensor, height: int, width: int, *, colour_map: str = HEAT) -> Tensor:
    """Maps as pictures, from the first colour for a map's least value to the last one for its greatest.

    A map is enlarged bilinearly and stretched between the two, so that colours compare places within a face but not
    faces; a flat map is shown as its middle.

    Args:
        maps: (..., h, w).
        height, width: of the pictures.
        colour_map: of matplotlib.

    Returns:
        uint8 (..., 3, height, width).
    """
    from matplotlib import colormaps

    small = maps.float().reshape(1, -1, *maps.shape[-2:])  # as channels of one image: three times as fast on CPUs
    enlarged = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    enlarged = enlarged.view(*maps.shape[:-2], height, width)
    least, most = enlarged.amin((-2, -1), keepdim=True), enlarged.amax((-2, -1), keepdim=True)
    is_flat = most - least <= 1e-5 * torch.maximum(most.abs(), least.abs())
    scale = 255 * ~is_flat / (most - least).clamp(min=1e-12)
    steps = enlarged.sub_(least).mul_(scale).add_(127.5 * is_flat).round_().long()
    colours = torch.as_tensor(colormaps[colour_map](range(256), bytes=True)[:, :3], device=maps.device)
    return torch.stack([channel.take(steps) for channel in colours.T.contiguous()], -3)


def overlay(image: Tensor, maps: Tensor, *, strength: float = 0.5, colour_map: str = HEAT) -> Tensor:
    """Faces with a map of each laid over them in the colours of ``heat_colours``.

    Args:
        image: uint8 (B, 3, H, W).
        maps: (..., B, h, w), several of every face where there are more axes.
        strength: share of the colours in the mixture, 0..1.
        colour_map: of matplotlib.

    Returns:
        uint8 (..., B, 3, H, W).
    """
    colours = heat_colours(maps, image.shape[-2], image.shape[-1], colour_map=colour_map)
    return torch.add((1 - strength) * image, colours, alpha=strength).round_().to(torch.uint8)
