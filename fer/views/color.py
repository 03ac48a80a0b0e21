"""Color jitter of uint8 batches with Pillow's arithmetic; every image draws its own changes and their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn

from fer.ranges import AtLeast0


class ColorJitter(nn.Module):
    """Changes brightness, contrast, saturation and hue in random order (torchvision's ColorJitter on Pillow images).

    Args:
        brightness, contrast, saturation: factors are drawn from ``max(0, 1 - value) .. 1 + value``; 0 or more.
        hue: the shift is drawn from ``-hue .. hue`` of the color circle; 0 to 0.5.
    """

    def __init__(
        self,
        *,
        brightness: AtLeast0 = 0.0,
        contrast: AtLeast0 = 0.0,
        saturation: AtLeast0 = 0.0,
        hue: Annotated[float, Interval(ge=0, le=0.5)] = 0.0,
    ) -> None:
        super().__init__()
        self._changes: list[tuple[Callable[[Tensor, Tensor], Tensor], float, float]] = [
            (function, max(0.0, 1 - value), 1 + value)
            for function, value in (
                (adjust_brightness, brightness),
                (adjust_contrast, contrast),
                (adjust_saturation, saturation),
            )
            if value
        ]
        if hue:
            self._changes.append((adjust_hue, -hue, hue))

    def forward(self, image: Tensor) -> Tensor:
        """Change uint8 images (B, 3, h, w)."""
        if not self._changes:
            return image
        amounts, order = torch.rand(2, len(self._changes), len(image), device=image.device)
        order = order.argsort(0)
        for turn in order:
            changed = image
            for number, (function, low, high) in enumerate(self._changes):
                chosen = (turn == number)[:, None, None, None]
                changed = torch.where(chosen, function(image, low + (high - low) * amounts[number]), changed)
            image = changed
        return image


def adjust_brightness(image: Tensor, factor: Tensor) -> Tensor:
    """Multiply uint8 images (B, 3, h, w) by ``factor`` (B,)."""
    return _blend(torch.zeros((), device=image.device), image, factor)


def adjust_contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Move uint8 images (B, 3, h, w) from their mean gray by ``factor`` (B,)."""
    mean = gray(image).double().mean((1, 2, 3), keepdim=True)
    return _blend((mean + 0.5).floor().float(), image, factor)


def adjust_saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Move uint8 images (B, 3, h, w) from their gray versions by ``factor`` (B,)."""
    return _blend(gray(image).float(), image, factor)


def adjust_hue(image: Tensor, shift: Tensor) -> Tensor:
    """Turn the hues of uint8 images (B, 3, h, w) by ``shift`` (B,), a share of the color circle."""
    hue, saturation, value = _to_hsv(image)
    # torchvision adds the shift as a whole number of 256 steps, cut toward 0, and wraps around.
    turned = (hue + (shift * 255).trunc()[:, None, None]).remainder(256)
    return _to_rgb(turned, saturation, value)


def gray(image: Tensor) -> Tensor:
    """Compute Pillow's gray values (ITU-R 601-2 luma) of uint8 images (B, 3, h, w), int32 (B, 1, h, w)."""
    whole = image.to(torch.int32)
    luma: Tensor = whole[:, :1] * 19595 + whole[:, 1:2] * 38470 + whole[:, 2:] * 7471 + 0x8000
    return luma >> 16


def _blend(start: Tensor, image: Tensor, factor: Tensor) -> Tensor:
    """Compute ``start + factor * (image - start)``, clipped and cut to whole numbers."""
    moved = start + factor[:, None, None, None] * (image.float() - start)
    return moved.clamp(0, 255).to(torch.uint8)


def _to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split into Pillow's hue, saturation and value, whole numbers in 0..255 as floats (B, h, w)."""
    red, green, blue = image.float().unbind(1)
    value, least = image.float().amax(1), image.float().amin(1)
    spread = value - least
    safe = spread.clamp(min=1)
    # Double precision and intermediate rounding follow Pillow's C code.
    from_red, from_green, from_blue = (((value - channel) / safe).double() for channel in (red, green, blue))
    sixths = torch.where(
        red == value,
        from_blue - from_green,
        torch.where(green == value, 2 + from_red - from_blue, 4 + from_green - from_red),
    ).float()
    share = (sixths.double() / 6 + 1).fmod(1).float()
    hue = (share.double() * 255).floor().float()
    saturation = (spread / value.clamp(min=1) * 255).floor()
    colored = spread > 0
    return torch.where(colored, hue, 0), torch.where(colored, saturation, 0), value


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Join what ``_to_hsv`` split, uint8 (B, 3, h, w)."""
    sixths = hue * 6 / 255
    sector = sixths.floor()
    rest, share = sixths - sector, saturation / 255
    low, falling, rising = (
        (value * (1 - share * amount) + 0.5).floor() for amount in (torch.ones_like(rest), rest, 1 - rest)
    )
    tables = {
        0: (value, rising, low), 1: (falling, value, low), 2: (low, value, rising),
        3: (low, falling, value), 4: (rising, low, value), 5: (value, low, falling),
    }  # fmt: skip
    result = torch.stack(tables[5], 1)
    for number in range(5):
        result = torch.where((sector % 6 == number)[:, None], torch.stack(tables[number], 1), result)
    return result.clamp(0, 255).to(torch.uint8)
