"""RandAugment's operations, each against loops over pixels in plain Python."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from fer.views.rand_augment import FILL, OPERATIONS, RandAugment, cut_out
from fer.views.warps import random_mirror, random_shift

LEVELS = (10, 3)


def image_of(seed: int = 0, height: int = 14, width: int = 12) -> Tensor:
    """Values that do not fill 0..255, with two noisy gradients and a flat channel of low contrast."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(30, 220, height * width).reshape(height, width)
    channels = [ramp + rng.normal(0, 12, ramp.shape), ramp.T.reshape(ramp.shape), 90 + rng.integers(0, 5, ramp.shape)]
    return torch.from_numpy(np.stack(channels).clip(0, 255).astype(np.uint8))[None]


def by_table(channel: list[int], name: str, level: float, mean: float) -> list[int]:
    """Map each value of a channel, for operations that look at nothing else."""
    factor, counts = 0.1 + 1.8 * level / 10, Counter(channel)
    low, high = min(channel), max(channel)
    table = list(range(256))
    if name == "AutoContrast" and high > low:
        table = [int(min(max(v * (255 / (high - low)) - low * (255 / (high - low)), 0), 255)) for v in range(256)]
    elif name == "Equalize":
        step = (len(channel) - counts[high]) // 255
        if step:
            table = [min((step // 2 + sum(counts[u] for u in range(v))) // step, 255) for v in range(256)]
    elif name == "Solarize":
        table = [v if v < int(level / 10 * 256) else 255 - v for v in range(256)]
    elif name == "Contrast":
        table = [int(min(max((v - mean) * factor + mean, 0), 255)) for v in range(256)]
    elif name == "Brightness":
        table = [int(min(np.float32(v) * np.float32(factor), 255)) for v in range(256)]
    elif name == "Posterize":
        table = [v & (255 << (8 - int(level / 10 * 4)) & 255) for v in range(256)]
    return [table[v] for v in channel]


def by_pixel(image: Tensor, name: str, level: float, sign: float) -> Tensor:
    """Map every pixel, for the other operations."""
    share, (channels, height, width) = level / 10, image.shape
    pixels = image.tolist()
    out = image.clone()

    def value(c: int, y: int, x: int) -> float:
        return pixels[c][y][x] if 0 <= y < height and 0 <= x < width else 128

    factor = 0.1 + 1.8 * share
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                if name == "Color":
                    gray = 0.114 * pixels[0][y][x] + 0.587 * pixels[1][y][x] + 0.299 * pixels[2][y][x]
                    out[c, y, x] = int(min(max((pixels[c][y][x] - gray) * factor + gray, 0), 255))
                elif name == "Sharpness":
                    if 0 < y < height - 1 and 0 < x < width - 1:
                        around = sum(value(c, y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1))
                        smooth = round((around + 4 * pixels[c][y][x]) / 13)
                        out[c, y, x] = int(min(max(smooth + factor * (pixels[c][y][x] - smooth), 0), 255))
                else:
                    old_x, old_y = float(x), float(y)
                    if name == "Rotate":
                        # The picture turns by the angle, so every new pixel is looked up turned back.
                        angle = math.radians(sign * 30 * share)
                        dx, dy = x - width / 2, y - height / 2
                        old_x = width / 2 + math.cos(angle) * dx - math.sin(angle) * dy
                        old_y = height / 2 + math.sin(angle) * dx + math.cos(angle) * dy
                    elif name == "ShearX":
                        old_x -= sign * 0.3 * share * y
                    elif name == "ShearY":
                        old_y -= sign * 0.3 * share * x
                    elif name == "TranslateX":
                        old_x += sign * 5.3 * share
                    elif name == "TranslateY":
                        old_y += sign * 5.3 * share
                    left, top = math.floor(old_x), math.floor(old_y)
                    a, b = old_x - left, old_y - top
                    upper = (1 - a) * value(c, top, left) + a * value(c, top, left + 1)
                    lower = (1 - a) * value(c, top + 1, left) + a * value(c, top + 1, left + 1)
                    out[c, y, x] = round((1 - b) * upper + b * lower)
    return out


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_what_its_description_says(name: str, level: float) -> None:
    image = image_of(height=40, width=36) if name == "Equalize" else image_of()
    augment = RandAugment(level=level, translation=5.3)
    for sign in (1.0, -1.0):
        found = augment.transform(image, torch.tensor([OPERATIONS.index(name)]), torch.tensor([sign]))[0]
        if name in ("Identity", "AutoContrast", "Equalize", "Solarize", "Contrast", "Brightness", "Posterize"):
            channels = [channel.flatten().tolist() for channel in image[0]]
            weights = (0.114, 0.587, 0.299)
            mean = sum(w * sum(channel) / len(channel) for w, channel in zip(weights, channels, strict=True))
            expected = torch.tensor([by_table(channel, name, level, mean) for channel in channels])
            assert found.flatten(1).tolist() == expected.tolist()
            assert (name == "Identity" or (name, level) == ("Solarize", 10)) == torch.equal(found, image[0])
        else:
            expected = by_pixel(image[0], name, level, sign)
            # float32 may fall on the other side of a whole or half number.
            difference = (found.int() - expected.int()).abs()
            assert difference.max() <= 1 and (difference > 0).float().mean() < 0.02
            assert not torch.equal(found, image[0])


def test_every_image_has_operations_of_its_own() -> None:
    image = image_of().expand(len(OPERATIONS), -1, -1, -1)
    augment, sign = RandAugment(translation=5.3), torch.ones(len(OPERATIONS))
    together = augment.transform(image, torch.arange(len(OPERATIONS)), sign)
    for i in range(len(OPERATIONS)):
        assert torch.equal(together[i : i + 1], augment.transform(image[:1], torch.tensor([i]), sign[:1]))


def test_operations_are_drawn_equally_often_and_applied_in_half_of_the_draws() -> None:
    torch.manual_seed(0)
    drawn = []
    augment = RandAugment(2, 10, cutout=0.0)
    augment.transform = lambda image, chosen, sign: (drawn.append((chosen, sign)), image)[1]  # type: ignore[method-assign]
    count = 14000
    augment(torch.zeros(count, 3, 1, 1, dtype=torch.uint8))
    assert len(drawn) == 2
    for chosen, sign in drawn:
        share = torch.bincount(chosen, minlength=14) / count
        expected = torch.full((14,), 0.5 / 14)
        expected[0] += 0.5
        assert (share - expected).abs().max() < 0.017  # four standard errors
        assert abs(float(sign.mean())) < 0.035
    assert not torch.equal(drawn[0][0], drawn[1][0])


def test_the_cut_square_is_centered_where_drawn_and_ends_at_the_border() -> None:
    image = torch.zeros(3, 3, 40, 30, dtype=torch.uint8)
    cut = cut_out(image, torch.tensor([[0.5, 0.0, 0.999], [0.5, 0.0, 0.999]]), 8)
    for found, rows, columns in zip(cut, ((12, 28), (0, 8), (31, 40)), ((7, 23), (0, 8), (21, 30)), strict=True):
        expected = torch.zeros(3, 40, 30, dtype=torch.uint8)
        expected[:, slice(*rows), slice(*columns)] = FILL
        assert torch.equal(found, expected)


def test_shifts_are_crops_of_the_reflected_image() -> None:
    torch.manual_seed(0)
    image = image_of()
    padded = torch.from_numpy(np.pad(image[0].numpy(), ((0, 0), (4, 4), (4, 4)), mode="reflect"))
    crops = {tuple(padded[:, y : y + 14, x : x + 12].flatten().tolist()) for y in range(9) for x in range(9)}
    found = {tuple(each.flatten().tolist()) for each in random_shift(image.expand(1000, -1, -1, -1), 4)}
    assert found == crops
    assert torch.equal(random_shift(image, 0), image)
    mirrored = random_mirror(image.expand(50, -1, -1, -1))
    assert {tuple(each.flatten().tolist()) for each in mirrored} == {
        tuple(image.flatten().tolist()), tuple(image.flip(-1).flatten().tolist()),
    }  # fmt: skip
