"""Crops, jitter, warps and PaddleClas's RandAugment, each against Pillow or torchvision on single images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from support.configured import configured
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop
from torchvision.transforms import functional as TF

from fer.errors import ConfigError
from fer.views.augmentation import Augmentation
from fer.views.color import ColorJitter, adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from fer.views.crops import RandomCrop, RandomFiveCrop, RandomResizedCrop, Resize, center_crop
from fer.views.paddle_rand_augment import OPERATIONS, PaddleRandAugment
from fer.views.rand_augment import RandAugment
from fer.views.resize import resized_crop
from fer.views.warps import RandomAffine, RandomApply, centered, sample

COUNT = 12


def faces(count: int = COUNT, size: int = 40, seed: int = 0) -> Tensor:
    """Smooth gradients with noise: pixels of every hue, none of them flat."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = rng.uniform(1, 6, (count, 3, 2, 1, 1))
    phase = rng.uniform(0, 6, (count, 3, 1, 1))
    values = (
        128 + 110 * np.sin(waves[:, :, 0] * x + waves[:, :, 1] * y + phase) + rng.normal(0, 12, (count, 3, size, size))
    )
    return torch.from_numpy(values.clip(0, 255).astype(np.uint8))


def pictures(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def tensor(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


def assert_close(ours: Tensor, theirs: Tensor, *, off_by_one: float = 0.0) -> None:
    """Equal, but for a share of values that is off by one gray level."""
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= (1 if off_by_one else 0), difference.max()
    assert (difference > 0).float().mean() <= off_by_one


@pytest.mark.parametrize("size", [56, 40, 17])
def test_a_resized_crop_is_pillows(size: int) -> None:
    images, generator = faces(), torch.Generator().manual_seed(size)
    height, width = torch.randint(11, 41, (2, COUNT), generator=generator)
    top = (torch.rand(COUNT, generator=generator) * (41 - height)).long()
    left = (torch.rand(COUNT, generator=generator) * (41 - width)).long()
    ours = resized_crop(images, top, left, height, width, size)
    boxes = torch.stack([top, left, height, width], 1).tolist()
    theirs = [
        TF.resized_crop(image, *box, [size, size], InterpolationMode.BILINEAR)
        for image, box in zip(pictures(images), boxes, strict=True)
    ]
    assert torch.equal(ours, tensor(theirs))


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (adjust_brightness, TF.adjust_brightness, 0.2, 1.9),
        (adjust_contrast, TF.adjust_contrast, 0.2, 1.9),
        (adjust_saturation, TF.adjust_saturation, 0.2, 1.9),
        (adjust_hue, TF.adjust_hue, -0.5, 0.5),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_a_change_of_color_is_pillows(
    ours: Callable[[Tensor, Tensor], Tensor],
    theirs: Callable[[Image.Image, float], Image.Image],
    low: float,
    high: float,
) -> None:
    images, amount = faces(), torch.linspace(low, high, COUNT)
    changed = tensor([theirs(image, value) for image, value in zip(pictures(images), amount.tolist(), strict=True)])
    assert_close(ours(images, amount), changed, off_by_one=2e-4)


def test_jitter_draws_factors_evenly_and_every_order() -> None:
    images = torch.full((4000, 3, 1, 1), 100, dtype=torch.uint8)
    torch.manual_seed(0)
    brightness = ColorJitter(brightness=0.4)(images)[:, 0, 0, 0].double()
    assert (brightness.min(), brightness.max()) == (60, 139)
    assert brightness.mean() == pytest.approx(99.5, abs=1.5), "cut to whole numbers, so half a level below 100"
    # A dark picture that is brightened first and then stretched clips elsewhere than one that is stretched first.
    image = torch.tensor([[200, 40], [200, 40]], dtype=torch.uint8).expand(1, 3, 2, 2)
    half = torch.tensor([1.5])
    orders = {
        tuple(adjust_contrast(adjust_brightness(image, half), half).flatten().tolist()),
        tuple(adjust_brightness(adjust_contrast(image, half), half).flatten().tolist()),
    }
    assert len(orders) == 2
    jitter = ColorJitter(brightness=0.5, contrast=0.5)
    jitter._changes = [(function, 1.5, 1.5) for function, _, _ in jitter._changes]
    made = [tuple(one.flatten().tolist()) for one in jitter(image.expand(400, -1, -1, -1))]
    assert set(made) == orders and 150 < made.count(made[0]) < 250
    assert torch.equal(ColorJitter()(images), images)


def test_a_warp_is_torchvisions_affine() -> None:
    images = faces()
    angle, factor = torch.linspace(-50, 50, COUNT), torch.linspace(0.7, 1.4, COUNT)
    right, down = torch.arange(COUNT) - 5.0, 4.0 - torch.arange(COUNT)
    for interpolation in ("nearest", "bilinear"):
        ours = sample(
            images,
            centered(angle.double().deg2rad(), right.double(), down.double(), factor.double(), 40, 40),
            interpolation=interpolation,
        )
        theirs = [
            TF.affine(image, a, [int(x), int(y)], s, [0.0, 0.0], InterpolationMode(interpolation), [0, 0, 0])
            for image, a, x, y, s in zip(
                pictures(images), angle.tolist(), right.tolist(), down.tolist(), factor.tolist(), strict=True
            )
        ]
        # Pillow steps through nearest pixels in fixed point, so that a few fall on the other side of an edge.
        different = (ours.int() - tensor(theirs).int()).abs() > 1
        assert different.float().mean() < (2e-3 if interpolation == "nearest" else 1e-4)


def test_affine_draws_lie_in_their_ranges() -> None:
    dot = torch.zeros(3000, 3, 41, 41, dtype=torch.uint8)
    dot[:, :, 20, 20] = 255
    torch.manual_seed(0)
    moved = RandomAffine(translate=(0.1, 0.2))(dot)
    place = moved[:, 0].flatten(1).argmax(1)
    row, column = place // 41 - 20, place % 41 - 20
    assert (row.min(), row.max(), column.min(), column.max()) == (-8, 8, -4, 4)
    assert torch.equal(RandomAffine()(dot), dot)
    white = torch.full((500, 3, 40, 40), 255, dtype=torch.uint8)
    assert (RandomAffine(scale=(1.0, 1.25))(white) == 255).all(), "enlarged images leave no black border"
    assert (RandomAffine(scale=(0.5, 0.9))(white) == 0).flatten(1).any(1).all()


def test_a_padded_crop_moves_the_image_and_shows_black() -> None:
    images = faces(2000, 16).clamp(min=1)
    torch.manual_seed(0)
    cropped = RandomCrop(16, padding=4)(images)
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    found = torch.zeros(2000, 9, 9, dtype=torch.bool)
    for top in range(9):
        for left in range(9):
            found[:, top, left] = (padded[..., top : top + 16, left : left + 16] == cropped).flatten(1).all(1)
    assert (found.flatten(1).sum(1) == 1).all(), "every image is one of the 81 crops"
    shares = found.sum(0) / 2000
    assert (shares > 0.3 / 81).all() and (shares < 2 / 81).all()
    with pytest.raises(ValueError, match=r"RandomCrop\.size is 20, more than the 18 pixels"):
        RandomCrop(20, padding=1)(images)


def test_five_crops_are_corners_and_center() -> None:
    images = faces(2000, 16)
    torch.manual_seed(0)
    cropped = RandomFiveCrop(11)(images)
    counts = []
    for number in range(5):
        crop = torch.stack([torch.stack(TF.five_crop(image, [11, 11]))[number] for image in images])
        counts.append(int((crop == cropped).flatten(1).all(1).sum()))
    assert sum(counts) == 2000 and min(counts) > 330
    assert torch.equal(center_crop(images, 11), TF.center_crop(images, [11, 11]))


def test_resized_crops_have_torchvisions_law() -> None:
    torch.manual_seed(0)
    crop = RandomResizedCrop(32, scale=(0.75, 1.0))
    height, width = crop.draw(20_000, 40, 40, torch.device("cpu"))
    image = torch.zeros(3, 40, 40)
    theirs = [TorchvisionCrop.get_params(image, [0.75, 1.0], [3 / 4, 4 / 3]) for _ in range(20_000)]
    for ours, index in ((height, 2), (width, 3)):
        expected = torch.tensor([params[index] for params in theirs]).float()
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            assert ours.quantile(share) == pytest.approx(float(expected.quantile(share)), abs=1)
        assert ours.mean() == pytest.approx(float(expected.mean()), abs=0.15)
    assert crop(faces()).shape == (COUNT, 3, 32, 32)


def test_resized_crops_have_paddles_law() -> None:
    torch.manual_seed(0)
    height, width = RandomResizedCrop(32, law="paddle").draw(20_000, 40, 40, torch.device("cpu"))
    rng, expected = np.random.default_rng(0), []
    for _ in range(20_000):  # written from PaddleClas's description of RandCropImage
        aspect = math.sqrt(rng.uniform(3 / 4, 4 / 3))
        bound = min(1 / aspect**2, aspect**2)
        edge = math.sqrt(1600 * rng.uniform(min(0.08, bound), min(1.0, bound)))
        expected.append((int(edge / aspect), int(edge * aspect)))
    for ours, theirs in ((height, [h for h, _ in expected]), (width, [w for _, w in expected])):
        assert ours.mean() == pytest.approx(np.mean(theirs), abs=0.15)
        assert ours.std() == pytest.approx(np.std(theirs), abs=0.15)
        assert (ours.min(), ours.max()) == (min(theirs), max(theirs))


def by_pillow(image: Image.Image, name: str, level: float, sign: float) -> Image.Image:
    """One operation of PaddleClas at a level, with Pillow."""
    share = level / 10
    factor = 1 + 0.9 * share * sign
    gray = (128, 128, 128)
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(factor)
    if name == "Rotate":
        return image.rotate(30 * share, fillcolor=gray)
    if name == "Solarize":
        return ImageOps.solarize(image, 256 * share)
    if name == "Posterize":
        return ImageOps.posterize(image, int(4 * share))
    if name in ("AutoContrast", "Equalize", "Invert"):
        return getattr(ImageOps, name.lower())(image)
    shear, shift = 0.3 * share * sign, 150 / 331 * share * sign * image.width
    way_back = {
        "ShearX": (1, shear, 0, 0, 1, 0), "ShearY": (1, 0, 0, shear, 1, 0),
        "TranslateX": (1, 0, shift, 0, 1, 0), "TranslateY": (1, 0, 0, 0, 1, shift),
    }[name]  # fmt: skip
    resample = Image.Resampling.BILINEAR if "Shear" in name else Image.Resampling.NEAREST
    return image.transform(image.size, Image.Transform.AFFINE, way_back, resample, fillcolor=gray)


@pytest.mark.parametrize("level", [5, 9])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_of_paddle_is_pillows(name: str, sign: float, level: float) -> None:
    images = faces(4)
    chosen = torch.full((4,), OPERATIONS.index(name))
    ours = PaddleRandAugment(level=level).transform(images, chosen, torch.full((4,), sign))
    theirs = tensor([by_pillow(image, name, level, sign) for image in pictures(images)])
    different = (ours.int() - theirs.int()).abs() > (1 if name in ("ShearX", "ShearY", "Sharpness") else 0)
    assert different.float().mean() <= (3e-3 if name == "Rotate" else 2e-4)


def test_paddles_operations_are_drawn_evenly_and_each_image_by_itself() -> None:
    images = faces(1, 40).expand(1400, -1, -1, -1)
    torch.manual_seed(0)
    augmented = PaddleRandAugment(operations=1)(images)
    inverted = (augmented == 255 - images).flatten(1).all(1).sum()
    assert 60 < inverted < 145, "one of 14"
    assert torch.equal(PaddleRandAugment(operations=0)(images), images)


def test_some_images_are_transformed_and_sizes_must_stay() -> None:
    images = faces(2000, 16)
    torch.manual_seed(0)
    changed = (
        (RandomApply(0.2, [ColorJitter(brightness=0.9), RandomAffine(degrees=30)])(images) != images).flatten(1).any(1)
    )
    assert 330 < changed.sum() < 470
    with pytest.raises(ValueError, match="make images of 12 pixels from ones of 16"):
        RandomApply(0.5, [RandomCrop(12)])(images)


def test_views_pass_transforms_and_tests_see_the_center() -> None:
    images = faces()
    augmentation = Augmentation(
        size=28,
        transforms={"resize": Resize(32), "crop": RandomFiveCrop(28)},
        test_resize=32,
        pixel_noise_probability=0.0,
        erase_probability=0.0,
    )
    resized = tensor([image.resize((32, 32), Image.Resampling.BILINEAR) for image in pictures(images)])
    view = augmentation.denormalize(augmentation.one_view(images))
    crops = torch.stack([torch.stack(TF.five_crop(image, [28, 28])) for image in resized])
    assert (crops == view[:, None]).flatten(2).all(2).any(1).all()
    assert torch.equal(augmentation.denormalize(augmentation.test_view(images)), TF.center_crop(resized, [28, 28]))


@pytest.mark.parametrize("erase", ["shared", "independent", "none"])
@pytest.mark.parametrize("noise", [None, False, True])
def test_both_views_are_transformed_alike(erase: str, noise: bool | None) -> None:
    """CAMs of a face and its mirror image can only be compared where both show the same part of it."""
    images = faces()
    augmentation = Augmentation(
        size=28, transforms={"crop": RandomCrop(28)}, pixel_noise_probability=0.0, erase_probability=0.0
    )
    first, second = augmentation.two_views(images, erase=erase, pixel_noise_on_second_view=noise)
    assert torch.equal(first.flip(-1), second)


def test_maps_of_a_center_lie_in_the_center() -> None:
    augmentation = Augmentation(size=28, test_resize=32)
    cam = torch.zeros(2, 3, 7, 7) - 0.5
    cam[0, 0, 2, 3] = cam[0, 1, 6, 0] = cam[0, 2, 1, 1] = cam[1, :, 4, 4] = 1.0
    whole = augmentation.on_whole_image(cam)
    assert whole.shape == (2, 3, 32, 32)
    assert torch.allclose(whole[..., 0, 0], cam.amin((2, 3))), "outside lies the least value"
    inner = nn.functional.avg_pool2d(whole[..., 2:30, 2:30], 4)
    assert torch.allclose(inner.flatten(2).argmax(2), cam.flatten(2).argmax(2))
    plain = Augmentation(size=28)
    assert plain.on_whole_image(cam) is cam
    image = faces(2)
    assert plain.seen(image) is image and augmentation.seen(image).shape == image.shape


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (Resize, {"size": 4}, "size is 4"),
        (RandomCrop, {"size": 16, "padding": -1}, "padding is -1"),
        (RandomResizedCrop, {"size": 16, "scale": [0.0, 1.0]}, "scale is"),
        (RandomResizedCrop, {"size": 16, "ratio": [2.0, 1.0]}, "ratio is"),
        (RandomResizedCrop, {"size": 16, "law": "other"}, "law is 'other'"),
        (ColorJitter, {"hue": 0.6}, "hue is 0.6"),
        (ColorJitter, {"contrast": -1}, "contrast is -1"),
        (RandomAffine, {"degrees": 200}, "degrees is 200"),
        (RandomAffine, {"translate": [2, 0]}, "translate is"),
        (RandomAffine, {"scale": [0, 1]}, "scale is"),
        (RandomAffine, {"scale": [2, 1]}, "scale is"),
        (RandomApply, {"probability": 2, "transforms": []}, "probability is 2"),
        (RandAugment, {"operations": -1}, "operations is -1"),
        (RandAugment, {"probability": 1.5}, "probability is 1.5"),
        (PaddleRandAugment, {"level": 11}, "level is 11"),
        (Augmentation, {"test_resize": 100}, "test_resize is 100"),
        (Augmentation, {"transforms": {"crop": 3}}, "transforms.crop is 3"),
    ],
)
def test_values_outside_their_ranges_are_refused(
    make: Callable[..., object], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        configured("at", make, **values)
