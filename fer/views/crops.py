"""Random crops of uint8 batches, each image at a place of its own."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fer.ranges import Above0, CountFrom0, ShareAbove0, ViewSize
from fer.views.resize import resize, resized_crop

_CROP_ATTEMPTS = 10  # torchvision.transforms.RandomResizedCrop gives up after ten rectangles that do not fit.


class Resize(nn.Module):
    """Resizes square images, as Pillow's bilinear.

    Args:
        size: edge length in pixels, 8 to 2048.
    """

    def __init__(self, size: ViewSize) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """Resize uint8 images (B, 3, h, h) to (B, 3, size, size)."""
        return resize(image, self.size)


class RandomCrop(nn.Module):
    """Cuts squares out, anywhere in each image with a black frame around it (torchvision's RandomCrop).

    Args:
        size: edge length of the square in pixels; at most that of the framed image.
        padding: width of the frame in pixels, 0 or more.

    Raises:
        ValueError: images too small for the square.
    """

    def __init__(self, size: ViewSize, *, padding: CountFrom0 = 0) -> None:
        super().__init__()
        self.size = size
        self.padding = padding

    def forward(self, image: Tensor) -> Tensor:
        """Cut uint8 images (B, 3, h, w) to (B, 3, size, size)."""
        free = _free(image, self.size, "RandomCrop", 2 * self.padding)
        top, left = (torch.rand(2, len(image), device=image.device) * (free + 1)).long() - self.padding
        return cut(image, top, left, self.size)


class RandomFiveCrop(nn.Module):
    """Cuts a square out of one of the four corners or the center, each as likely.

    Args:
        size: edge length of the square in pixels; at most that of the image.

    Raises:
        ValueError: a size outside 8..2048, or images too small for the square.
    """

    def __init__(self, size: ViewSize) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """Cut uint8 images (B, 3, h, h) to (B, 3, size, size)."""
        free = _free(image, self.size, "RandomFiveCrop")
        places = torch.tensor([0, 0, 0, free, free, 0, free, free, *2 * [middle(free)]], device=image.device).view(5, 2)
        which = (torch.rand(len(image), device=image.device) * 5).long()
        top, left = places[which].unbind(1)
        return cut(image, top, left, self.size)


class RandomResizedCrop(nn.Module):
    """Cuts a rectangle of random area and shape out of each image and makes a square of it.

    Args:
        size: edge length of the square in pixels.
        scale: least and largest area of the rectangle as a share of the image.
        ratio: least and largest width / height.
        law: ``torchvision`` draws the ratio on a logarithmic scale and keeps the whole image after ten rectangles that
            do not fit; ``paddle``, PaddleClas's RandCropImage, draws the ratio's square evenly, draws areas up to the
            largest that fits, and rounds down. For ``paddle``, ``ratio`` bounds the square of the ratio.

    Raises:
        ValueError: an interval is not [low, high].
    """

    def __init__(
        self,
        size: ViewSize,
        *,
        scale: tuple[ShareAbove0, ShareAbove0] = (0.08, 1.0),
        ratio: tuple[Above0, Above0] = (3 / 4, 4 / 3),
        law: Literal["torchvision", "paddle"] = "torchvision",
    ) -> None:
        super().__init__()
        self.size = size
        for name, interval in (("scale", scale), ("ratio", ratio)):
            if interval[0] > interval[1]:
                raise ValueError(f"RandomResizedCrop.{name} is {list(interval)}; it must be [low, high]")
        self.scale = (float(scale[0]), float(scale[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        self.law = law

    def forward(self, image: Tensor) -> Tensor:
        """Crop uint8 images (B, 3, h, w) to (B, 3, size, size)."""
        height, width = self.draw(len(image), image.shape[-2], image.shape[-1], image.device)
        place = torch.rand(2, len(image), device=image.device)
        top = (place[0] * (image.shape[-2] - height + 1)).floor()
        left = (place[1] * (image.shape[-1] - width + 1)).floor()
        return resized_crop(image, top, left, height, width, self.size)

    def draw(self, count: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw heights and widths of rectangles, whole numbers as floats (count,)."""
        attempts = _CROP_ATTEMPTS if self.law == "torchvision" else 1
        of_area, of_ratio = torch.rand(2, attempts, count, device=device)
        low, high = self.scale
        if self.law == "paddle":
            ratio = (self.ratio[0] + (self.ratio[1] - self.ratio[0]) * of_ratio[0]).sqrt()
            largest = torch.minimum(width / height / ratio**2, height / width * ratio**2)
            least, most = largest.clamp(max=low), largest.clamp(max=high)
            edge = (width * height * (least + (most - least) * of_area[0])).sqrt()
            return (edge / ratio).floor().clamp(1, height), (edge * ratio).floor().clamp(1, width)
        area = width * height * (low + (high - low) * of_area)
        ratio = torch.exp(math.log(self.ratio[0]) + math.log(self.ratio[1] / self.ratio[0]) * of_ratio)
        rows, columns = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
        fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
        first = fits.to(torch.uint8).argmax(0, keepdim=True)
        any_fits = fits.any(0)
        return (
            torch.where(any_fits, rows.gather(0, first)[0], float(height)),
            torch.where(any_fits, columns.gather(0, first)[0], float(width)),
        )


def cut(image: Tensor, top: Tensor, left: Tensor, size: ViewSize) -> Tensor:
    """Cut squares out of images (B, 3, h, w) at ``top`` and ``left`` (B,); black where they leave the image."""
    for axis, start in ((2, top), (3, left)):
        length = image.shape[axis]
        position = start[:, None] + torch.arange(size, device=image.device)
        inside = (position >= 0) & (position < length)
        view = [len(image), 1, 1, 1]
        view[axis] = size
        shape = [*image.shape]
        shape[axis] = size
        image = image.gather(axis, position.clamp(0, length - 1).view(view).expand(shape))
        image = image.masked_fill(~inside.view(view), 0)
    return image


def center_crop(image: Tensor, size: ViewSize) -> Tensor:
    """Cut the central square out of images (B, 3, h, h), at torchvision's place."""
    start = middle(image.shape[-1] - size)
    return image[..., start : start + size, start : start + size]


def middle(free: int) -> int:
    """Half of the free pixels, rounded as Python rounds."""
    return round(free / 2)


def _free(image: Tensor, size: ViewSize, name: str, frame: int = 0) -> int:
    """Pixels by which a square can move along either side."""
    free = min(image.shape[-2:]) + frame - size
    if free < 0:
        raise ValueError(f"{name}.size is {size}, more than the {size + free} pixels of its images; resize them first")
    return free
