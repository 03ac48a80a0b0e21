"""Rotations, shifts and scalings of uint8 batches, with draws of its own for every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from fer.ranges import Above0, Share
from fer.views.flip import mirror


class RandomAffine(nn.Module):
    """Rotates, moves and scales images about their centers; black where they leave (torchvision's RandomAffine).

    Args:
        degrees: rotations are drawn from ``-degrees .. degrees``; 0 to 180.
        translate: largest shift along width and height as a share of them, 0 to 1 each; shifts are whole pixels.
        scale: least and largest factor, above 0.

    Raises:
        ValueError: the least factor is above the largest.
    """

    def __init__(
        self,
        *,
        degrees: Annotated[float, Interval(ge=0, le=180)] = 0.0,
        translate: tuple[Share, Share] = (0.0, 0.0),
        scale: tuple[Above0, Above0] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        if scale[0] > scale[1]:
            raise ValueError(f"RandomAffine.scale is {list(scale)}; it must be [low, high]")
        self.degrees = degrees
        self.translate = (float(translate[0]), float(translate[1]))
        self.scale = (float(scale[0]), float(scale[1]))

    def forward(self, image: Tensor) -> Tensor:
        """Warp uint8 images (B, 3, h, w)."""
        height, width = image.shape[-2:]
        draws = torch.rand(4, len(image), device=image.device)
        angle = torch.deg2rad(self.degrees * (2 * draws[0] - 1))
        right, down = (
            (share * length * (2 * draw - 1)).round()
            for share, length, draw in zip(self.translate, (width, height), draws[1:3], strict=True)
        )
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[3]
        return sample(image, centered(angle, right, down, factor, height, width))


def centered(angle: Tensor, right: Tensor, down: Tensor, factor: Tensor, height: int, width: int) -> Tensor:
    """Build the way back, from new to old positions, of a warp about the center of an image.

    Args:
        angle: clockwise, radians (B,).
        right, down: shift in pixels, (B,).
        factor: enlargement, (B,).
        height, width: of the images.

    Returns:
        (B, 2, 3), for ``sample``.
    """
    x, y = width / 2, height / 2
    cos, sin = angle.cos() / factor, angle.sin() / factor
    from_x, from_y = -(x + right), -(y + down)
    rows = [cos, sin, cos * from_x + sin * from_y + x, -sin, cos, cos * from_y - sin * from_x + y]
    return torch.stack(rows, 1).view(-1, 2, 3)


def sample(
    image: Tensor, matrix: Tensor, *, fill: int = 0, interpolation: Literal["nearest", "bilinear"] = "bilinear"
) -> Tensor:
    """Look every pixel up where a matrix says, with Pillow's rules.

    Args:
        image: uint8 (B, 3, h, w).
        matrix: (B, 2, 3), from a new to an old position; a pixel's position is its center, (0.5, 0.5) the first one's.
        fill: value of positions outside the image.
        interpolation: between the pixels inside.
    """
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device), torch.arange(width, device=image.device), indexing="ij"
    )
    position = torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)], -1).to(matrix.dtype)  # (h, w, 3)
    old = position @ matrix.mT[:, None]  # (B, h, w, 2)
    lengths = torch.tensor([width, height], device=image.device)
    inside = ((old >= 0) & (old < lengths)).all(-1)[:, None]
    if interpolation == "nearest":
        column, row = old.floor().long().clamp(min=0).minimum(lengths - 1).unbind(-1)
        place = (row * width + column).flatten(1)[:, None].expand(-1, image.shape[1], -1)
        sampled = image.flatten(2).gather(2, place).view_as(image)
    else:
        grid = old / lengths * 2 - 1
        sampled = F.grid_sample(image.to(matrix.dtype), grid, padding_mode="border", align_corners=False)
        sampled = (sampled + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return torch.where(inside, sampled, fill)


def random_shift(image: Tensor, border: int) -> Tensor:
    """Move each image (B, 3, h, w) by up to ``border`` pixels along both axes, as a crop of the reflected image."""
    moves = torch.rand(2, len(image), 1, device=image.device).mul(2 * border + 1).floor() - border
    for axis, move in zip((2, 3), moves, strict=True):
        last = image.shape[axis] - 1
        position = (torch.arange(last + 1, device=image.device) + move).long()
        position = last - (last - position.abs()).abs()
        shape = [len(image), 1, 1, 1]
        shape[axis] = last + 1
        image = image.gather(axis, position.view(shape).expand_as(image))
    return image


def random_mirror(image: Tensor, probability: float = 0.5) -> Tensor:
    """Mirror each image (B, 3, h, w) with ``probability``."""
    return torch.where(torch.rand(len(image), 1, 1, 1, device=image.device) < probability, mirror(image), image)


class RandomApply(nn.Module):
    """Applies transforms, one after the other, to some of the images and leaves the others as they are.

    Args:
        probability: share of images, 0 to 1.
        transforms: modules from uint8 (B, 3, h, w) to images of the same size.

    Raises:
        ValueError: the transforms change the size.
    """

    def __init__(self, probability: Share, transforms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.probability = probability
        self.transforms = nn.Sequential(*transforms)

    def forward(self, image: Tensor) -> Tensor:
        """Transform uint8 images (B, 3, h, w)."""
        chosen = torch.rand(len(image), 1, 1, 1, device=image.device) < self.probability
        transformed = self.transforms(image)
        if transformed.shape != image.shape:
            raise ValueError(
                f"RandomApply: its transforms make images of {transformed.shape[-1]} pixels from ones of "
                f"{image.shape[-1]}; resize first, for all images"
            )
        return torch.where(chosen, transformed, image)
