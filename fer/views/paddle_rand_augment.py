"""RandAugment with the operations and levels of PaddleClas, which TransFER uses, on uint8 batches.

    operation                        argument at level m of 10
    AutoContrast, Equalize, Invert   none
    Rotate                           30 m / 10 degrees counterclockwise about the center, nearest pixel
    Solarize                         inverts values of 256 m / 10 and above
    Color, Contrast, Brightness,
    Sharpness                        factor 1 +- 0.9 m / 10; 1 = unchanged
    ShearX, ShearY                   +-0.3 m / 10, the first row or column stays
    TranslateX, TranslateY           +-150 / 331 m / 10 of the edge, nearest pixel
    Posterize                        keeps 4 m / 10 bits, rounded down

Pixels that come from outside are gray 128. Difference from that code: shears are bilinear, there bicubic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fer.ranges import CountFrom0
from fer.views.color import adjust_brightness, adjust_contrast, adjust_saturation
from fer.views.rand_augment import MAX_LEVEL, Level, auto_contrast_table, equalize_table, histogram_of, smoothed
from fer.views.warps import centered, sample

OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Solarize", "Color", "Contrast", "Brightness", "Sharpness",
    "ShearX", "ShearY", "TranslateX", "TranslateY", "Posterize",
)  # fmt: skip
_FILL = 128


class PaddleRandAugment(nn.Module):
    """Applies random operations one after the other.

    Args:
        operations: draws per image, with replacement, 0 or more.
        level: strength, 0 to 10.
    """

    def __init__(self, operations: CountFrom0 = 2, level: Level = 5) -> None:
        super().__init__()
        self.operations = operations
        self.level = level

    def forward(self, image: Tensor) -> Tensor:
        """Augment uint8 images (B, 3, h, w) with draws from torch's default generator of their device."""
        for _ in range(self.operations):
            which, sign = torch.rand(2, len(image), device=image.device)
            chosen = (which * len(OPERATIONS)).long().clamp(max=len(OPERATIONS) - 1)
            image = self.transform(image, chosen, torch.where(sign < 0.5, -1.0, 1.0))
        return image

    def transform(self, image: Tensor, chosen: Tensor, sign: Tensor) -> Tensor:
        """Apply one operation to each uint8 image.

        Args:
            image: (B, 3, h, w).
            chosen: int64 (B,), positions in ``OPERATIONS``.
            sign: float (B,), 1 or -1: direction of shears and shifts, and whether factors are above or below 1.
        """
        share = self.level / MAX_LEVEL
        factor = 1 + 0.9 * share * sign
        changed = {
            "Invert": 255 - image,
            "Solarize": torch.where(image < 256 * share, image, 255 - image),
            "Posterize": image & (255 << (8 - int(4 * share)) & 255),
            "Color": adjust_saturation(image, factor),
            "Contrast": adjust_contrast(image, factor),
            "Brightness": adjust_brightness(image, factor),
            "Sharpness": _sharpen(image, factor),
        }
        histogram = histogram_of(image)
        value = torch.arange(256, device=image.device).expand_as(histogram)
        for name, table in (("AutoContrast", auto_contrast_table), ("Equalize", equalize_table)):
            flat = table(histogram, value).to(torch.uint8).gather(2, image.flatten(2).long())
            changed[name] = flat.view_as(image)
        zero, one = torch.zeros_like(sign), torch.ones_like(sign)
        height, width = image.shape[-2:]
        angle = torch.full_like(sign, -30 * share).deg2rad()
        changed["Rotate"] = sample(
            image, centered(angle, zero, zero, one, height, width), fill=_FILL, interpolation="nearest"
        )
        shear, shift = 0.3 * share * sign, 150 / 331 * share * sign
        for name, row in (
            ("ShearX", [one, shear, zero, zero, one, zero]),
            ("ShearY", [one, zero, zero, shear, one, zero]),
            ("TranslateX", [one, zero, shift * width, zero, one, zero]),
            ("TranslateY", [one, zero, zero, zero, one, shift * height]),
        ):
            changed[name] = sample(
                image,
                torch.stack(row, 1).view(-1, 2, 3),
                fill=_FILL,
                interpolation="bilinear" if "Shear" in name else "nearest",
            )
        result = image
        for number, name in enumerate(OPERATIONS):
            result = torch.where((chosen == number)[:, None, None, None], changed[name], result)
        return result


def _sharpen(image: Tensor, factor: Tensor) -> Tensor:
    """Move all but the border pixels away from (or towards) the smoothed image."""
    exact = image.float()
    smooth = exact.clone()
    smooth[..., 1:-1, 1:-1] = smoothed(exact)
    moved = smooth + factor[:, None, None, None] * (exact - smooth)
    return moved.clamp(0, 255).to(torch.uint8)
