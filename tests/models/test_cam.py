"""Class activation maps against the logits and the definition, the mirror against a sampling grid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fer.models.backbones import tiny
from fer.models.cam import class_activation_maps
from fer.models.network import FaceNetwork
from fer.views.flip import mirror
from fer.views.heatmaps import overlay

CHANNELS_LAST = pytest.mark.parametrize("channels_last", [True, False])


def network(channels_last: bool) -> FaceNetwork:
    torch.manual_seed(0)
    built = FaceNetwork(tiny(width=8), 7, channels_last=channels_last)
    # A bias that is large against the CAM, so that a CAM holding it would be far off.
    torch.nn.init.uniform_(built.classifier.bias, 5, 10)
    return built


@CHANNELS_LAST
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (40, 25)])
def test_mean_of_a_cam_plus_the_bias_is_the_logit(channels_last: bool, training: bool, size: tuple[int, int]) -> None:
    model = network(channels_last).double().train(training)
    features, logits = model(torch.randn(3, 3, *size, dtype=torch.float64))
    assert features.is_contiguous(memory_format=model.memory_format)
    maps = class_activation_maps(features, model.classifier.weight)
    torch.testing.assert_close(maps.mean((2, 3)) + model.classifier.bias, logits, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 8), st.integers(1, 5), st.integers(1, 5), st.sampled_from(
        [torch.contiguous_format, torch.channels_last]
    ), st.integers(0, 2**32 - 1)
)  # fmt: skip
def test_cam_is_the_weighted_sum_over_channels(
    batch: int, channels: int, classes: int, height: int, width: int, memory_format: torch.memory_format, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, height, width, dtype=torch.float64, generator=generator)
    weight = torch.randn(classes, channels, dtype=torch.float64, generator=generator)

    expected = torch.zeros(batch, classes, height, width, dtype=torch.float64)
    for n in range(batch):
        for k in range(classes):
            for c in range(channels):
                expected[n, k] += weight[k, c] * features[n, c]
    maps = class_activation_maps(features.to(memory_format=memory_format), weight)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)


@CHANNELS_LAST
def test_cam_and_logits_keep_the_weights_precision_under_autocast(channels_last: bool) -> None:
    model = network(channels_last).eval()
    weight, bias = model.classifier.weight.detach(), model.classifier.bias.detach()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        features, logits = model(torch.randn(4, 3, 32, 32))
        maps = class_activation_maps(features, weight)
    assert features.dtype == torch.bfloat16, "autocast was at work in the backbone"
    assert maps.dtype == logits.dtype == torch.float32
    exact = torch.einsum("kc,ncij->nkij", weight.double(), features.double())
    torch.testing.assert_close(maps.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps.mean((2, 3)) + bias, logits, rtol=1e-5, atol=1e-5)


def mirrored_by_grid(maps: Tensor) -> Tensor:
    """Sampled at ``x -> -x`` in normalized coordinates, as the paper's code mirrors its maps."""
    batch, _, height, width = maps.shape
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, dtype=maps.dtype), torch.linspace(-1, 1, width, dtype=maps.dtype), indexing="ij"
    )
    grid = torch.stack([-x, y], dim=-1).expand(batch, -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 16), st.integers(2, 33), st.integers(0, 2**32 - 1))
def test_mirror_equals_sampling_on_a_mirrored_grid(height: int, width: int, seed: int) -> None:
    maps = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    # The grid's coordinates are rounded, so it mixes in neighbours: an error relative to the largest value.
    tolerance = 1e-5 * max(1.0, float(maps.abs().max()))
    torch.testing.assert_close(mirror(maps), mirrored_by_grid(maps), rtol=0, atol=tolerance)
    assert torch.equal(mirror(mirror(maps)), maps)
    assert torch.equal(mirror(maps)[..., 0], maps[..., width - 1])


def test_an_overlay_shows_where_the_map_is_high() -> None:
    image = torch.full((2, 3, 40, 40), 100, dtype=torch.uint8)
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 3] = 5.0
    shown = overlay(image, maps).int()
    assert shown.shape == image.shape
    red, blue = shown[0, 0], shown[0, 2]
    assert red[0, 39] > blue[0, 39] + 50, "the peak is red"
    assert blue[39, 0] > red[39, 0], "where there is least, blue"
    assert (shown[1] == shown[1, :, :1, :1]).all(), "a flat map has one color"
    assert torch.equal(overlay(image, maps, strength=0.0), image)
    assert (overlay(image, 10 * maps - 3).int() - shown).abs().max() <= 3, "scale and offset do not matter"
    several = overlay(image, torch.stack([maps, -maps, maps**2]))
    for number, one in enumerate((maps, -maps, maps**2)):
        assert torch.equal(several[number], overlay(image, one))
