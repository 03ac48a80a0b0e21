"""Training and test views, made from uint8 batches on the training device; every sample has draws of its own.

EAC's recipe, per image: Gaussian pixel noise at the stored size, bilinear resize in uint8, normalization, random
erasing. Other methods' recipes mirror some images before that, and put transforms in front of the noise: crops, color
jitter, warps, RandAugment. Random numbers come from torch's default generator of the batch's device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer.ranges import Above0, AtLeast0, Share, ShareAbove0, ViewSize
from fer.views.crops import center_crop, middle
from fer.views.flip import mirror
from fer.views.resize import resize

EraseRecipe = Literal["shared", "independent", "none"]
AspectLaw = Literal["log_uniform", "uniform"]

_ERASE_ATTEMPTS = 10  # torchvision.transforms.RandomErasing gives up after ten rectangles that do not fit.


class Augmentation(nn.Module):
    """Makes float views (B, 3, size, size) from uint8 images (B, 3, h, w).

    Args:
        size: edge length of the views in pixels.
        pixel_noise_probability: share of images that get Gaussian noise, 0..1.
        pixel_noise_variance: its variance on the 0..255 scale.
        erase_probability: share of images in which a rectangle is erased, 0..1.
        erase_area: least and largest area of the rectangle as a share of the image.
        erase_aspect: least and largest height / width of the rectangle.
        erase_aspect_law: ``log_uniform``, or ``uniform`` as in torchvision before 0.8, by which about three quarters of
            the rectangles are taller than wide.
        flip_probability: share of images that are mirrored first, 0..1 (EAC: 0).
        flip_excludes_noise: an image gets the flip or the noise or neither, but not both; the probabilities then sum
            to at most 1.
        transforms: modules by name, each from uint8 images (B, 3, h, h) to ones of perhaps another size; applied in
            order after the flip and before the noise, to training views only.
        test_resize: test views are the central square of ``size`` pixels of images resized to this edge; ``None``:
            the whole image.
        mean, std: per RGB channel on the 0..1 scale. Erased pixels are 0 after normalization, that is ``mean``.

    Raises:
        ValueError: an interval is not [low, high], ``test_resize`` is below ``size``, or flip and noise exclude each
            other with probabilities of more than 1 together.
    """

    def __init__(
        self,
        *,
        size: ViewSize = 224,
        pixel_noise_probability: Share = 0.5,
        pixel_noise_variance: AtLeast0 = 30.0,
        erase_probability: Share = 0.5,
        erase_area: tuple[ShareAbove0, ShareAbove0] = (0.02, 0.25),
        erase_aspect: tuple[Above0, Above0] = (0.3, 3.3),
        erase_aspect_law: AspectLaw = "log_uniform",
        flip_probability: Share = 0.0,
        flip_excludes_noise: bool = False,
        transforms: Mapping[str, nn.Module] | None = None,
        test_resize: ViewSize | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[Above0, Above0, Above0] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        if test_resize is not None and test_resize < size:
            raise ValueError(f"augment.test_resize is {test_resize}; it must be augment.size ({size}) or more")
        if flip_excludes_noise and flip_probability + pixel_noise_probability > 1:
            raise ValueError(
                "augment.flip_excludes_noise needs flip_probability + pixel_noise_probability of at most 1"
            )
        for name, interval in (("erase_area", erase_area), ("erase_aspect", erase_aspect)):
            if interval[0] > interval[1]:
                raise ValueError(f"augment.{name} is {list(interval)}; it must be [low, high]")
        self.erase_aspect_law = erase_aspect_law
        for name, transform in (transforms or {}).items():
            if not isinstance(transform, nn.Module):
                raise ValueError(f"augment.transforms.{name} is {transform!r}; it must be a transform with a _target_")
        self.size = size
        self.test_resize = size if test_resize is None else test_resize
        self.transforms = nn.Sequential(*(transforms or {}).values())
        self.pixel_noise_probability = pixel_noise_probability
        self.pixel_noise_variance = pixel_noise_variance
        self.erase_probability = erase_probability
        self.flip_probability = flip_probability
        self.flip_excludes_noise = flip_excludes_noise
        self.erase_area = (float(erase_area[0]), float(erase_area[1]))
        self.erase_aspect = (float(erase_aspect[0]), float(erase_aspect[1]))
        # The configuration holds them; they are no part of a checkpoint.
        self.register_buffer("mean", 255.0 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255.0 * torch.tensor(std).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def test_view(self, image: Tensor) -> Tensor:
        """Resize, cut the center out and normalize."""
        return self._normalize(center_crop(resize(image, self.test_resize), self.size))

    def seen(self, image: Tensor) -> Tensor:
        """Cut uint8 images (B, 3, h, h) to the part that test views show, resized to (B, 3, h, h)."""
        if self.test_resize == self.size:
            return image
        return resize(center_crop(resize(image, self.test_resize), self.size), image.shape[-1])

    def on_whole_image(self, cam: Tensor) -> Tensor:
        """Spread maps of test views (B, K, h, w) over whole images; unseen parts get each map's least value."""
        if self.test_resize == self.size:
            return cam
        return frame(cam, self.size, self.test_resize)

    def denormalize(self, view: Tensor) -> Tensor:
        """Convert views to uint8 images (B, 3, H, W) for pictures."""
        return (view.float() * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)

    def one_view(self, image: Tensor) -> Tensor:
        """Flip, transforms, pixel noise, resize, normalize, erase."""
        return self._erase_(self._whole_view(self._pixel_noise(*self._prepare(image))))

    def two_views(
        self, image: Tensor, *, erase: EraseRecipe = "shared", pixel_noise_on_second_view: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """The view that is classified and its mirrored partner, (B, 3, size, size) each.

        Unless nothing is erased, the first view equals ``one_view`` with the same state of the generator.

        Args:
            image: uint8 (B, 3, h, w).
            erase: ``shared``, the second view is the mirror image of the finished first view; ``independent``, it is
                made from the mirrored original, transformed alike, with an erased rectangle of its own; ``none``, as
                ``shared`` with nothing erased.
            pixel_noise_on_second_view: ``None`` = as the recipe has it, yes when shared and no when independent.
                ``False`` when shared: the mirror image without the noise, erased in the same place. ``True`` when
                independent: noise of its own.
        """
        image, flipped = self._prepare(image)
        first = self._whole_view(self._pixel_noise(image, flipped))
        erased = None if erase == "none" else self._draw_erased(first)
        if erased is not None:
            first.masked_fill_(erased, 0.0)
        if erase != "independent":
            if pixel_noise_on_second_view is not False:
                return first, mirror(first)
            second = self._whole_view(image)
            return first, mirror(second if erased is None else second.masked_fill_(erased, 0.0))
        mirrored = mirror(image)
        if pixel_noise_on_second_view:
            mirrored = self._pixel_noise(mirrored)
        return first, self._erase_(self._whole_view(mirrored))

    def _whole_view(self, image: Tensor) -> Tensor:
        return self._normalize(resize(image, self.size))

    def _normalize(self, image: Tensor) -> Tensor:
        return image.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.std)

    def _prepare(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mirror some images and transform all; also which were mirrored."""
        image, flipped = self._flip(image)
        transformed: Tensor = self.transforms(image)
        return transformed, flipped

    def _flip(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images, some of them mirrored, and which, (B, 1, 1, 1); without a draw where none can be."""
        if self.flip_probability == 0:
            return image, None
        flipped = torch.rand(len(image), 1, 1, 1, device=image.device) < self.flip_probability
        return torch.where(flipped, mirror(image), image), flipped

    def _pixel_noise(self, image: Tensor, flipped: Tensor | None = None) -> Tensor:
        if self.pixel_noise_probability == 0:
            return image
        draw = torch.rand(len(image), 1, 1, 1, device=image.device)
        if flipped is None or not self.flip_excludes_noise:
            chosen = draw < self.pixel_noise_probability
        else:
            chosen = ~flipped & (draw * (1 - self.flip_probability) < self.pixel_noise_probability)
        noise = torch.randn(image.shape, device=image.device).mul_(self.pixel_noise_variance**0.5)
        # Clip, then cut the fraction off: the reference casts to uint8.
        noisy = noise.add_(image).clamp_(0, 255).to(torch.uint8)
        return torch.where(chosen, noisy, image)

    def _erase_(self, view: Tensor) -> Tensor:
        """Erase in place: views are large, and this one is used nowhere else."""
        return view.masked_fill_(self._draw_erased(view), 0.0)

    def _draw_erased(self, view: Tensor) -> Tensor:
        """Mask (B, 1, H, W) of erased pixels; the law of torchvision's RandomErasing."""
        count, height, width, device = len(view), view.shape[-2], view.shape[-1], view.device
        draws = torch.rand(3 + 2 * _ERASE_ATTEMPTS, count, device=device)
        chosen, place_row, place_column = draws[:3]
        area_draw, aspect_draw = draws[3:].view(2, _ERASE_ATTEMPTS, count)
        area = (self.erase_area[0] + (self.erase_area[1] - self.erase_area[0]) * area_draw) * (height * width)
        low, high = self.erase_aspect
        if self.erase_aspect_law == "uniform":
            aspect = low + (high - low) * aspect_draw
        else:
            aspect = torch.exp(math.log(low) + (math.log(high) - math.log(low)) * aspect_draw)
        rows = torch.round(torch.sqrt(area * aspect))
        columns = torch.round(torch.sqrt(area / aspect))
        fits = (rows < height) & (columns < width)
        first_fit = fits.to(torch.uint8).argmax(0, keepdim=True)
        rows, columns = rows.gather(0, first_fit)[0], columns.gather(0, first_fit)[0]
        erased = (chosen < self.erase_probability) & fits.any(0)
        top = torch.floor(place_row * (height - rows + 1))
        left = torch.floor(place_column * (width - columns + 1))
        in_rows = _between(torch.arange(height, device=device), top, rows)
        in_columns = _between(torch.arange(width, device=device), left, columns)
        mask: Tensor = in_rows[:, :, None] & in_columns[:, None, :] & erased[:, None, None]
        return mask[:, None]


def frame(cam: Tensor, size: int, whole: int) -> Tensor:
    """Enlarge maps (B, K, h, w) of the central ``size`` of ``whole`` pixels to maps of all of them.

    Pixels that a map does not cover get its least value.
    """
    least = cam.amin((2, 3), keepdim=True)
    inner = F.interpolate(cam.float() - least, (size, size), mode="bilinear", align_corners=False)
    before = middle(whole - size)
    after = whole - size - before
    return F.pad(inner, (before, after, before, after)) + least


def _between(positions: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Mask (B, P): ``start[b] <= position < start[b] + length[b]``."""
    return (positions >= start[:, None]) & (positions < (start + length)[:, None])
