"""Training views: the resize against Pillow, erasing against torchvision, pixel noise against its definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest, chi2_contingency, chisquare, ks_2samp
from support.configured import configured
from torch import Tensor
from torchvision.transforms import RandomErasing
from torchvision.transforms.functional import normalize

from fer.errors import ConfigError
from fer.views.augmentation import Augmentation
from fer.views.flip import mirror
from fer.views.resize import resize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_NOISE: dict[str, Any] = {"pixel_noise_probability": 0.0}
NO_ERASING: dict[str, Any] = {"erase_probability": 0.0}
ALWAYS: dict[str, Any] = {"pixel_noise_probability": 1.0, "erase_probability": 1.0}


def faces(count: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def gray(count: int, size: int, value: int = 128) -> Tensor:
    return torch.full((count, 3, size, size), value, dtype=torch.uint8)


def erased(view: Tensor) -> Tensor:
    """Mask (B, H, W) of erased pixels: no gray level is exactly 0 in all three channels after normalization."""
    return (view == 0).all(1)


def rectangles(masks: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Top, left, height and width (n, 4) of the masks (B, H, W) that are not empty."""
    masks = masks[masks.flatten(1).any(1)].long()
    rows, columns = masks.amax(2), masks.amax(1)
    height, width = rows.sum(1), columns.sum(1)
    assert torch.equal(masks.sum((1, 2)), height * width), "rectangles without holes"
    return torch.stack([rows.argmax(1), columns.argmax(1), height, width], dim=1).numpy()


# Resize and normalize.


def by_pillow(images: Tensor, size: int) -> Tensor:
    resized = [
        np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR))
        for image in images
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("old", "new"), [(100, 224), (100, 112), (100, 100), (100, 64), (100, 48), (37, 53), (53, 37), (256, 224), (1, 8)]
)
def test_resize_is_pillows_bilinear_bit_for_bit(old: int, new: int) -> None:
    images = faces(2, old)
    assert torch.equal(resize(images, new), by_pillow(images, new))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 130), st.integers(8, 130), st.integers(0, 2**32), st.booleans())
def test_resize_is_pillows_bilinear_at_any_size(old: int, new: int, seed: int, extremes: bool) -> None:
    images = faces(1, old, seed)
    if extremes:
        images = torch.where(images < 128, 0, 255).to(torch.uint8)
    assert torch.equal(resize(images, new), by_pillow(images, new))


def test_resize_works_in_training_after_an_evaluation_in_inference_mode() -> None:
    images = faces(1, 19)
    with torch.inference_mode():
        there = resize(images, 23)
    view = Augmentation(size=23, **NO_NOISE, **NO_ERASING).one_view(images)
    weight = torch.ones(1, requires_grad=True)
    (slope,) = torch.autograd.grad((weight * view).sum(), weight)
    torch.testing.assert_close(slope[0], view.sum())
    assert torch.equal(resize(images, 23), there)


def test_test_view_is_resized_and_normalized_per_channel() -> None:
    images = faces(3, 20)
    view = Augmentation(size=32).test_view(images)
    assert view.shape == (3, 3, 32, 32)
    assert view.dtype == torch.float32
    expected = normalize(by_pillow(images, 32).float() / 255, list(MEAN), list(STD))
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3), st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
    st.integers(0, 2**32),
)  # fmt: skip
def test_denormalize_restores_the_image(mean: list[float], std: list[float], seed: int) -> None:
    images = faces(2, 16, seed)
    augmentation = Augmentation(size=16, mean=mean, std=std)
    assert torch.equal(augmentation.denormalize(augmentation.test_view(images)), images)


def test_denormalize_clips_what_no_image_can_show() -> None:
    augmentation = Augmentation(size=8)
    assert (augmentation.denormalize(torch.full((1, 3, 8, 8), 50.0)) == 255).all()
    assert (augmentation.denormalize(torch.full((1, 3, 8, 8), -50.0)) == 0).all()


# Pixel noise.


def noisy(images: Tensor, **options: Any) -> Tensor:
    """The uint8 images behind views that are neither resized nor erased."""
    augmentation = Augmentation(size=images.shape[-1], **NO_ERASING, **options)
    return augmentation.denormalize(augmentation.one_view(images))


def test_about_half_of_the_images_get_noise() -> None:
    torch.manual_seed(0)
    count = 2000
    changed = int((noisy(gray(count, 8)) != 128).flatten(1).any(1).sum())
    assert binomtest(changed, count, 0.5).pvalue > 1e-3


@pytest.mark.parametrize(("variance", "value"), [(30.0, 128), (100.0, 128), (30.0, 3), (30.0, 252)])
def test_noise_is_gaussian_then_clipped_then_truncated(variance: float, value: int) -> None:
    torch.manual_seed(0)
    result = noisy(gray(50, 20, value), pixel_noise_probability=1.0, pixel_noise_variance=variance).flatten().numpy()
    drawn = np.random.default_rng(0).normal(value, math.sqrt(variance), 1_000_000)
    expected = np.clip(drawn, 0, 255).astype(np.uint8)  # cuts the fraction off
    levels = np.unique(expected)
    shares = np.array([(expected == level).mean() for level in levels])
    often = shares * len(result) > 10
    observed = np.array([(result == level).sum() for level in levels[often]])
    observed, shares = np.append(observed, len(result) - observed.sum()), np.append(shares[often], shares[~often].sum())
    assert chisquare(observed, shares / shares.sum() * observed.sum()).pvalue > 1e-3
    if value == 128:
        # Truncation moves the mean by half a level and adds the variance of a uniform remainder.
        assert result.mean() == pytest.approx(value - 0.5, abs=0.15)
        assert result.var() == pytest.approx(variance + 1 / 12, rel=0.03)


def test_noise_is_drawn_per_pixel_and_channel() -> None:
    torch.manual_seed(0)
    noise = noisy(gray(100, 16), pixel_noise_probability=1.0).float() - 127.5
    red, green = noise[:, 0].flatten(), noise[:, 1].flatten()
    left, right = noise[..., :-1].flatten(), noise[..., 1:].flatten()
    for a, b in ((red, green), (left, right)):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4 / math.sqrt(len(a))


def test_noise_is_added_at_the_stored_size_before_the_resize() -> None:
    images = faces(8, 20)
    torch.manual_seed(5)
    small = noisy(images, pixel_noise_probability=1.0)
    torch.manual_seed(5)
    large = Augmentation(size=48, pixel_noise_probability=1.0, **NO_ERASING)
    assert torch.equal(large.one_view(images), large.test_view(small))


# Erasing.


@pytest.fixture(scope="module", params=[(0.02, 0.25), (0.5, 0.95)], ids=["as published", "with rectangles that miss"])
def erasing(request: pytest.FixtureRequest) -> tuple[tuple[float, float], np.ndarray, np.ndarray, int]:
    """The rectangles of ours and of torchvision's in as many images, at 40 px."""
    area, count, size = request.param, 2000, 40
    torch.manual_seed(0)
    augmentation = Augmentation(size=size, erase_area=area, **NO_NOISE)
    ours = torch.cat([erased(augmentation.one_view(gray(500, size))) for _ in range(count // 500)])
    transform = RandomErasing(scale=area)
    theirs = torch.stack([transform(torch.ones(1, size, size))[0] == 0 for _ in range(count)])
    return area, rectangles(ours), rectangles(theirs), count


def test_erasing_is_as_frequent_as_torchvisions(erasing: Any) -> None:
    area, ours, theirs, count = erasing
    assert chi2_contingency([[len(ours), count - len(ours)], [len(theirs), count - len(theirs)]]).pvalue > 1e-3
    if area == (0.02, 0.25):
        assert binomtest(len(ours), count, 0.5).pvalue > 1e-3


@pytest.mark.parametrize("quantity", ["area", "aspect", "height", "width", "row", "column"])
def test_erased_rectangles_are_distributed_as_torchvisions(erasing: Any, quantity: str) -> None:
    def measure(found: np.ndarray) -> np.ndarray:
        top, left, height, width = found.T.astype(float)
        measures: dict[str, np.ndarray] = {
            "area": height * width,
            "aspect": height / width,
            "height": height,
            "width": width,
            "row": top + height / 2,
            "column": left + width / 2,
        }
        return measures[quantity]

    _, ours, theirs, _ = erasing
    assert ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3


def test_erased_rectangles_lie_within_their_bounds_and_reach_every_edge(erasing: Any) -> None:
    area, ours, _, _ = erasing
    top, left, height, width = ours.T
    # Sides are rounded to whole pixels.
    assert ((height - 0.5) * (width - 0.5) <= area[1] * 40 * 40).all()
    assert ((height + 0.5) * (width + 0.5) >= area[0] * 40 * 40).all()
    assert ((height - 0.5) / (width + 0.5) <= 3.3).all()
    assert ((height + 0.5) / (width - 0.5) >= 0.3).all()
    assert top.min() == left.min() == 0
    assert (top + height).max() == (left + width).max() == 40


def test_a_rectangle_that_never_fits_erases_nothing() -> None:
    augmentation = Augmentation(size=16, erase_area=(1, 1), erase_aspect=(1, 1), **NO_NOISE | {"erase_probability": 1})
    assert not erased(augmentation.one_view(gray(50, 16))).any()


def test_erased_pixels_are_the_mean_color() -> None:
    torch.manual_seed(0)
    augmentation = Augmentation(size=16, **ALWAYS)
    view = augmentation.one_view(faces(10, 16))
    mask = erased(view)
    assert mask.any(2).any(1).all()
    colors = augmentation.denormalize(view).permute(0, 2, 3, 1)[mask]
    assert (colors == torch.tensor([round(255 * m) for m in MEAN])).all()


# Every sample by itself, reproducibly.


def distinct(samples: Tensor) -> int:
    return len({sample.numpy().tobytes() for sample in samples})


def test_every_sample_has_draws_of_its_own() -> None:
    torch.manual_seed(0)
    count = 40
    images = faces(1, 24).expand(count, -1, -1, -1)
    assert distinct(noisy(images, pixel_noise_probability=1.0)) == count
    masks = erased(Augmentation(size=24, **NO_NOISE | {"erase_probability": 1.0}).one_view(images))
    assert masks.flatten(1).any(1).all()
    assert distinct(masks) > 0.9 * count


@pytest.mark.parametrize("erase", ["shared", "independent"])
def test_views_follow_the_seed(erase: Any) -> None:
    augmentation, images = Augmentation(size=24), faces(16, 20)

    def views(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack(augmentation.two_views(images, erase=erase))

    assert torch.equal(views(1), views(1))
    assert not torch.equal(views(1), views(2))
    torch.manual_seed(1)
    augmentation.two_views(images, erase=erase)
    assert not torch.equal(torch.stack(augmentation.two_views(images, erase=erase)), views(1)), "the draws move on"


# Pairs of views.

SWITCHES = pytest.mark.parametrize("noise", [None, True, False])
RECIPES = pytest.mark.parametrize("erase", ["shared", "independent"])


@RECIPES
@SWITCHES
def test_first_of_two_views_is_the_one_view(erase: Any, noise: bool | None) -> None:
    augmentation, images = Augmentation(size=24), faces(16, 20)
    torch.manual_seed(4)
    alone = augmentation.one_view(images)
    torch.manual_seed(4)
    first, _ = augmentation.two_views(images, erase=erase, pixel_noise_on_second_view=noise)
    assert torch.equal(first, alone)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([None, True]), st.integers(20, 25))
def test_unmirrored_second_view_is_the_first_when_shared(seed: int, noise: bool | None, size: int) -> None:
    torch.manual_seed(seed)
    augmentation = Augmentation(size=size, **ALWAYS)
    first, second = augmentation.two_views(faces(4, 20, seed), erase="shared", pixel_noise_on_second_view=noise)
    assert erased(first).any(2).any(1).all()
    assert torch.equal(mirror(second), first)


def test_shared_erasing_without_noise_on_the_second_view_covers_the_mirrored_place() -> None:
    torch.manual_seed(0)
    augmentation, images = Augmentation(size=24, **ALWAYS), faces(32, 20)
    first, second = augmentation.two_views(images, erase="shared", pixel_noise_on_second_view=False)
    mask = erased(first)
    assert torch.equal(erased(mirror(second)), mask)
    clean = augmentation.test_view(images).masked_fill(mask[:, None], 0)
    assert torch.equal(mirror(second), clean)
    assert not torch.equal(first, clean)


def test_independent_second_view_is_the_mirrored_original_with_its_own_rectangle() -> None:
    torch.manual_seed(0)
    augmentation, images = Augmentation(size=24, **ALWAYS), faces(64, 20)
    first, second = augmentation.two_views(images, erase="independent")
    masks = erased(first), erased(mirror(second))
    assert (masks[0] != masks[1]).flatten(1).any(1).float().mean() > 0.95
    expected = augmentation.test_view(mirror(images)).masked_fill(erased(second)[:, None], 0)
    assert torch.equal(second, expected)


def test_independent_views_are_erased_in_a_quarter_each_of_the_four_ways() -> None:
    torch.manual_seed(0)
    first, second = Augmentation(size=12, **NO_NOISE).two_views(gray(4000, 12), erase="independent")
    pattern = 2 * erased(first).flatten(1).any(1).long() + erased(second).flatten(1).any(1)
    assert chisquare(torch.bincount(pattern, minlength=4).numpy()).pvalue > 1e-3


@RECIPES
@SWITCHES
def test_the_switch_decides_on_noise_in_the_second_view(erase: Any, noise: bool | None) -> None:
    torch.manual_seed(0)
    count = 1000
    augmentation = Augmentation(size=8, **NO_ERASING)
    first, second = augmentation.two_views(gray(count, 8), erase=erase, pixel_noise_on_second_view=noise)
    clean = augmentation.test_view(gray(1, 8))
    in_first, in_second = ((view != clean).flatten(1).any(1) for view in (first, second))
    assert binomtest(int(in_first.sum()), count, 0.5).pvalue > 1e-3
    if noise is False or (noise is None and erase == "independent"):
        assert not in_second.any()
    elif erase == "shared":
        assert torch.equal(second, mirror(first))
    else:
        # Noise of its own: all four combinations are equally frequent, and no pattern is seen twice.
        assert chisquare(torch.bincount(2 * in_first.long() + in_second, minlength=4).numpy()).pvalue > 1e-3
        both = in_first & in_second
        assert (mirror(first)[both] != second[both]).flatten(1).any(1).all()


# Parameters.


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"size": 7}, "augment.size"),
        ({"pixel_noise_probability": -0.1}, "augment.pixel_noise_probability"),
        ({"pixel_noise_probability": math.nan}, "augment.pixel_noise_probability"),
        ({"pixel_noise_variance": -1.0}, "augment.pixel_noise_variance"),
        ({"pixel_noise_variance": math.inf}, "augment.pixel_noise_variance"),
        ({"erase_probability": 1.5}, "augment.erase_probability"),
        ({"erase_area": [0.3, 0.2]}, "augment.erase_area"),
        ({"erase_area": [0.0, 0.2]}, "augment.erase_area"),
        ({"erase_area": [0.2, 1.1]}, "augment.erase_area"),
        ({"erase_area": [0.2]}, "augment.erase_area"),
        ({"erase_aspect": [3.3, 0.3]}, "augment.erase_aspect"),
        ({"erase_aspect": [0.0, 3.3]}, "augment.erase_aspect"),
        ({"mean": [0.5, 0.5]}, "augment.mean"),
        ({"std": [0.5, 0.0, 0.5]}, "augment.std"),
    ],
)
def test_a_wrong_parameter_is_refused_by_its_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key} is "):
        configured("augment", Augmentation, **values)


def test_parameters_stay_out_of_checkpoints() -> None:
    assert not Augmentation().state_dict()


def test_flips_mirror_their_share_of_the_images_before_everything_else() -> None:
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).expand(2000, -1, -1, -1)
    plain = {"size": 16, "pixel_noise_probability": 0.0, "erase_probability": 0.0}
    augmentation = Augmentation(**plain, flip_probability=0.3)
    view, whole = augmentation.one_view(images), augmentation.test_view(images[:1])
    mirrored = (view == whole.flip(-1)).flatten(1).all(1)
    assert ((view == whole).flatten(1).all(1) ^ mirrored).all()
    assert abs(float(mirrored.float().mean()) - 0.3) < 0.05
    for erase in ("shared", "independent"):
        first, second = augmentation.two_views(images[:50], erase=erase)
        assert torch.equal(second, first.flip(-1)), "the second view is the mirror image of the first, flipped or not"


def test_flip_and_noise_can_exclude_each_other() -> None:
    images = torch.randint(60, 200, (1, 3, 16, 16), dtype=torch.uint8).expand(4000, -1, -1, -1)
    augmentation = Augmentation(
        size=16, erase_probability=0.0, flip_probability=0.25, pixel_noise_probability=0.25, flip_excludes_noise=True
    )
    view, whole = augmentation.one_view(images), augmentation.test_view(images[:1])
    untouched = (view == whole).flatten(1).all(1).float().mean()
    mirrored = (view == whole.flip(-1)).flatten(1).all(1).float().mean()
    assert abs(float(untouched) - 0.5) < 0.04 and abs(float(mirrored) - 0.25) < 0.035  # five standard errors
    # What is left has noise, and none of it is mirrored.
    nearer = (view - whole).abs().flatten(1).mean(1) < (view - whole.flip(-1)).abs().flatten(1).mean(1)
    assert abs(float(nearer.float().mean()) - 0.75) < 0.035


def test_without_flips_the_views_are_those_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    augmentation = Augmentation(size=16)
    torch.manual_seed(0)
    views = augmentation.one_view(images)
    torch.manual_seed(0)
    monkeypatch.setattr(augmentation, "_flip", lambda image: (image, None))
    assert torch.equal(augmentation.one_view(images), views)


def test_more_than_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        Augmentation(flip_probability=0.6, pixel_noise_probability=0.5, flip_excludes_noise=True)
    with pytest.raises(ConfigError, match=r"^augment\.flip_probability is 1\.5"):
        configured("augment", Augmentation, flip_probability=1.5)


@pytest.mark.parametrize(("law", "share"), [("uniform", (3.3 - 1) / (3.3 - 0.3)), ("log_uniform", 0.498)])
def test_how_many_rectangles_are_taller_than_wide(law: str, share: float) -> None:
    """Uniform in (0.3, 3.3), 77 % of the aspects lie above 1; log-uniform, half of them."""
    torch.manual_seed(0)
    made = Augmentation(size=64, erase_probability=1.0, erase_area=(0.05, 0.05), erase_aspect_law=law)  # type: ignore[arg-type]
    mask = made._draw_erased(torch.zeros(4000, 3, 64, 64))[:, 0]
    rows, columns = mask.any(2).sum(1), mask.any(1).sum(1)
    taller = (rows > columns).double() + 0.5 * (rows == columns).double()
    assert abs(float(taller.mean()) - share) < 0.03


def test_another_law_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^augment\.erase_aspect_law is 'linear'; it must be log_uniform or uniform"):
        configured("augment", Augmentation, erase_aspect_law="linear")
