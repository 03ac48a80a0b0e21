"""RandAugment on uint8 batches: every image draws operations of its own, and no device has to wait.

E. Cubuk, B. Zoph, J. Shlens, Q. Le, "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
CVPR Workshops 2020, arXiv 1909.13719, with the operations and levels of FixMatch's OpenCV port, which MAN uses.

    operation                        argument at level m of 10
    Identity, AutoContrast, Equalize none
    Rotate                           +-30 m / 10 degrees about (W / 2, H / 2)
    Solarize                         inverts values of 256 m / 10 and above; nothing at level 10
    Color, Contrast, Brightness,
    Sharpness                        factor 0.1 + 1.8 m / 10; 1 = unchanged
    ShearX, ShearY                   +-0.3 m / 10, the first row or column stays
    TranslateX, TranslateY           +-``translation`` m / 10 pixels
    Posterize                        keeps 4 m / 10 bits

Differences from that code: warps sample at exact coordinates, and not at multiples of 1/32 pixel; Sharpness clips,
where OpenCV's values wrap around. Differences from PIL: warps are bilinear, fill with gray 128 and shear about the
corner; Color and Contrast weigh red, green, blue by 0.114, 0.587, 0.299, which the port means for BGR and gets RGB.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from fer.ranges import AtLeast0, CountFrom0, Share

OPERATIONS = (
    "Identity", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Contrast", "Brightness", "Sharpness",
    "ShearX", "ShearY", "TranslateX", "TranslateY", "Posterize",
)  # fmt: skip
MAX_LEVEL = 10
Level = Annotated[float, Interval(ge=0, le=MAX_LEVEL)]
FILL = 128
_GRAY = (0.114, 0.587, 0.299)


class RandAugment(nn.Module):
    """Applies random operations one after the other, then cuts a square out.

    Args:
        operations: draws per image, with replacement, 0 or more.
        level: strength, in 0..10.
        probability: that a drawn operation is applied, in 0..1.
        translation: pixels at level 10.
        cutout: edge length of the square, pixels; 0 = none. Its center is uniform, so it may be cut by the border.
    """

    def __init__(
        self,
        operations: CountFrom0 = 2,
        level: Level = 10,
        *,
        probability: Share = 0.5,
        translation: float = 10.0,
        cutout: AtLeast0 = 16.0,
    ) -> None:
        super().__init__()
        self.operations = operations
        self.level = level
        self.probability = probability
        self.translation = translation
        self.cutout = cutout

    def forward(self, image: Tensor) -> Tensor:
        """Augment uint8 images (B, 3, h, w) with draws from torch's default generator of their device."""
        for _ in range(self.operations):
            which, applied, sign = torch.rand(3, len(image), device=image.device)
            chosen = (which * len(OPERATIONS)).long().clamp(max=len(OPERATIONS) - 1)
            chosen = torch.where(applied <= self.probability, chosen, 0)
            image = self.transform(image, chosen, torch.where(sign < 0.5, -1.0, 1.0))
        if self.cutout:
            image = cut_out(image, torch.rand(2, len(image), device=image.device), round(self.cutout / 2))
        return image

    def transform(self, image: Tensor, chosen: Tensor, sign: Tensor) -> Tensor:
        """Apply one operation to each uint8 image.

        Args:
            image: (B, 3, h, w).
            chosen: int64 (B,), positions in ``OPERATIONS``.
            sign: float (B,), the direction of warps, 1 or -1.
        """
        share = self.level / MAX_LEVEL
        factor = 0.1 + 1.8 * share
        image = _look_up(image, chosen, share, factor)
        image = torch.where(_is(chosen, "Color"), _color(image, factor), image)
        image = torch.where(_is(chosen, "Sharpness"), _sharpen(image, factor), image)
        matrix, warped = self._warps(chosen, sign, share, *image.shape[-2:])
        return torch.where(warped[:, None, None, None], warp(image, matrix), image)

    def _warps(self, chosen: Tensor, sign: Tensor, share: float, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Matrices (B, 2, 3) from new to old pixel coordinates (x, y, 1), and which images have one, (B,)."""

        def amount(name: str, most: float) -> Tensor:
            return torch.where(chosen == OPERATIONS.index(name), sign * (most * share), 0.0)

        angle = torch.deg2rad(amount("Rotate", 30.0))
        cos, sin = angle.cos(), angle.sin()
        x, y = width / 2, height / 2
        # A rotation about the center, a shear and a shift; for each image all but one of them do nothing.
        rows = [
            cos, -sin - amount("ShearX", 0.3), x - cos * x + sin * y + amount("TranslateX", self.translation),
            sin - amount("ShearY", 0.3), cos, y - sin * x - cos * y + amount("TranslateY", self.translation),
        ]  # fmt: skip
        names = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
        warped = torch.stack([chosen == OPERATIONS.index(name) for name in names]).any(0)
        return torch.stack(rows, 1).view(-1, 2, 3), warped


def warp(image: Tensor, matrix: Tensor) -> Tensor:
    """Sample uint8 images (B, 3, h, w) bilinearly at ``matrix`` (B, 2, 3) times (x, y, 1); outside lies gray."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device), torch.arange(width, device=image.device), indexing="ij"
    )
    position = torch.stack([x, y, torch.ones_like(x)], -1).to(matrix.dtype)  # (h, w, 3)
    old = position @ matrix.mT[:, None]  # (B, h, w, 2)
    old = torch.stack([old[..., 0] * (2 / max(width - 1, 1)), old[..., 1] * (2 / max(height - 1, 1))], -1) - 1
    sampled = F.grid_sample(image.to(matrix.dtype) - FILL, old, align_corners=True)
    return (sampled + FILL).round().clamp(0, 255).to(torch.uint8)


def cut_out(image: Tensor, center: Tensor, half: int) -> Tensor:
    """Fill the square from ``half`` pixels before to ``half`` after ``center`` (2, B), shares of height and width."""
    sides = []
    for share, length in zip(center, image.shape[-2:], strict=True):
        distance = torch.arange(length, device=image.device) - (share * length).floor()[:, None]
        sides.append((distance >= -half) & (distance < half))
    return image.masked_fill((sides[0][:, :, None] & sides[1][:, None, :])[:, None], FILL)


def _is(chosen: Tensor, name: str) -> Tensor:
    return (chosen == OPERATIONS.index(name))[:, None, None, None]


def _look_up(image: Tensor, chosen: Tensor, share: float, factor: float) -> Tensor:
    """Apply the operations that map each value of a channel to another: one table (B, 3, 256) for all of them."""
    flat = image.flatten(2).long()
    histogram = histogram_of(image)
    value = torch.arange(256, device=image.device).expand_as(histogram)
    threshold, bits = int(share * 256), int(share * 4)
    exact = value.double()
    red, green, blue = (histogram.double() @ exact[0, 0] / flat.shape[2]).unbind(1)
    mean = (_GRAY[0] * red + _GRAY[1] * green + _GRAY[2] * blue)[:, None, None]
    tables = {
        "AutoContrast": auto_contrast_table(histogram, value),
        "Equalize": equalize_table(histogram, value),
        "Solarize": torch.where(value < threshold, value, 255 - value),
        "Contrast": ((exact - mean) * factor + mean).clamp(0, 255).long(),
        "Brightness": (value.float() * factor).clamp(0, 255).long(),
        "Posterize": value & (255 << (8 - bits) & 255),
    }
    table = value
    for name, of_name in tables.items():
        table = torch.where((chosen == OPERATIONS.index(name))[:, None, None], of_name, table)
    return table.to(torch.uint8).gather(2, flat).view_as(image)


def histogram_of(image: Tensor) -> Tensor:
    """Count the values of each channel of uint8 images (B, 3, h, w), int64 (B, 3, 256)."""
    flat = image.flatten(2).long()
    histogram = torch.zeros(*image.shape[:2], 256, dtype=torch.int64, device=image.device)
    return histogram.scatter_add_(2, flat, torch.ones_like(flat))


def auto_contrast_table(histogram: Tensor, value: Tensor) -> Tensor:
    """Map a channel's least value to 0 and its largest to 255, (B, 3, 256)."""
    present = (histogram > 0).to(torch.uint8)
    low = present.argmax(2, keepdim=True).double()
    high = 255 - present.flip(2).argmax(2, keepdim=True).double()
    scale = 255 / (high - low).clamp(min=1)
    return torch.where(high > low, (value * scale - low * scale).clamp(0, 255).long(), value)


def equalize_table(histogram: Tensor, value: Tensor) -> Tensor:
    """Spread a channel's values evenly with Pillow's integer arithmetic, (B, 3, 256)."""
    last = 255 - (histogram > 0).to(torch.uint8).flip(2).argmax(2, keepdim=True)
    step = (histogram.sum(2, keepdim=True) - histogram.gather(2, last)) // 255
    before = histogram.cumsum(2) - histogram
    return torch.where(step > 0, ((before + step // 2) // step.clamp(min=1)).clamp(max=255), value)


def _color(image: Tensor, factor: float) -> Tensor:
    x = image.float()
    red, green, blue = x.unbind(1)
    gray = (_GRAY[0] * red + _GRAY[1] * green + _GRAY[2] * blue)[:, None]
    return ((x - gray) * factor + gray).clamp(0, 255).to(torch.uint8)


def _sharpen(image: Tensor, factor: float) -> Tensor:
    """Move all but the border pixels away from (or towards) the smoothed image."""
    x = image.float()
    inner, smooth = x[..., 1:-1, 1:-1], smoothed(x)
    x[..., 1:-1, 1:-1] = smooth + factor * (inner - smooth)
    return x.clamp(0, 255).to(torch.uint8)


def smoothed(image: Tensor) -> Tensor:
    """Average all but the border pixels with their neighbors: the middle counts five times, rounded."""
    rows = image[..., :-2, :] + image[..., 1:-1, :] + image[..., 2:, :]
    inner = image[..., 1:-1, 1:-1]
    return ((rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner) / 13).round()
