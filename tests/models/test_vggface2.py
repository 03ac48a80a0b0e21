"""VGGFace2's SE-ResNet-50: its file as researchers have it, and the network against a second implementation."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fer.config.compose import compose
from fer.errors import ConfigError
from fer.models.backbones import Backbone, resnet
from fer.models.vggface2 import vggface2_resnet50, vggface2_senet50
from fer.models.weights.load import WeightsError, load_backbone_weights

MEAN_BGR = (91.4953, 103.8827, 131.0912)
STAGES = ((64, 256, 3), (128, 512, 4), (256, 1024, 6), (512, 2048, 3))
"""Inner and outer channels and blocks of each stage."""


def published_shapes(*, excited: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``senet50_ft_weight.pkl``, written down one by one; without SE those of the ResNet-50."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, inputs: int, outputs: int, edge: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, edge, edge)

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})

    convolution("conv1", 3, 64, 7)
    norm("bn1", 64)
    before = 64
    for layer, (inner, outer, blocks) in enumerate(STAGES, start=1):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            for number, (inputs, outputs, edge) in enumerate(
                [(before, inner, 1), (inner, inner, 3), (inner, outer, 1)], start=1
            ):
                convolution(f"{at}.conv{number}", inputs, outputs, edge)
                norm(f"{at}.bn{number}", outputs)
            if excited:
                convolution(f"{at}.conv4", outer, outer // 16, 1)
                convolution(f"{at}.conv5", outer // 16, outer, 1)
                shapes |= {f"{at}.conv4.bias": (outer // 16,), f"{at}.conv5.bias": (outer,)}
            if block == 0:
                convolution(f"{at}.downsample.0", before, outer, 1)
                norm(f"{at}.downsample.1", outer)
            before = outer
    return shapes | {"fc.weight": (8631, 2048), "fc.bias": (8631,)}


def random_array(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.startswith("fc."):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.standard_normal(shape, np.float32) / np.float32(np.prod(shape[1:])) ** 0.5


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Tensor]]:
    """A pickle of arrays with the published names, and its tensors."""
    rng = np.random.default_rng(0)
    arrays = {name: random_array(name, shape, rng) for name, shape in published_shapes().items()}
    path = tmp_path_factory.mktemp("senet") / "senet50_ft_weight.pkl"
    path.write_bytes(pickle.dumps(arrays, 4))
    return str(path), {name: torch.from_numpy(array) for name, array in arrays.items()}


def hollow_file(path: Path, *, excited: bool) -> str:
    """All names and shapes, in a file of a few kilobytes."""
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in published_shapes(excited=excited).items()}, path)
    return str(path)


def features_by_hand(state: dict[str, Tensor], rgb: Tensor) -> Tensor:
    """Second implementation, without any module: RGB views that the mean was taken from -> feature map."""

    def convolved(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding)

    def normalized(x: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (
            state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = normalized(convolved(rgb[:, [2, 1, 0]], "conv1", 2, 3), "bn1").relu()
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for layer, (_, _, blocks) in enumerate(STAGES, start=1):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = normalized(convolved(x, f"{at}.conv1", stride), f"{at}.bn1").relu()
            y = normalized(convolved(y, f"{at}.conv2", padding=1), f"{at}.bn2").relu()
            y = normalized(convolved(y, f"{at}.conv3"), f"{at}.bn3")
            squeezed = F.adaptive_avg_pool2d(y, 1)
            weight = 1 / (1 + (-convolved(convolved(squeezed, f"{at}.conv4").relu(), f"{at}.conv5")).exp())
            if block == 0:
                x = normalized(convolved(x, f"{at}.downsample.0", stride), f"{at}.downsample.1")
            x = (weight * y + x).relu()
    return x


def test_the_published_file_fills_the_whole_backbone(published: tuple[str, dict[str, Tensor]]) -> None:
    path, state = published
    assert len(state) == 331
    backbone = vggface2_senet50(weights=path).eval()
    report = backbone.weights_report
    assert report is not None and report.share == 1 and not report.missing and not report.mismatched
    assert len(report.loaded) == 329 and report.unexpected == ("fc.weight", "fc.bias")
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 224, 224)).shape == (1, 2048, 7, 7)


@pytest.mark.parametrize("size", [(64, 64), (71, 90)])
@torch.no_grad()
def test_the_network_is_that_of_a_second_implementation(
    size: tuple[int, int], published: tuple[str, dict[str, Tensor]]
) -> None:
    path, state = published
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = features_by_hand({name: tensor.double() for name, tensor in state.items()}, x)
    found = vggface2_senet50(weights=path).eval().double()(x)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8 * float(wanted.abs().max()))


def test_views_reach_the_first_convolution_as_the_network_was_trained() -> None:
    augment = compose(["backbone=senet50_vggface2"]).augment
    image = torch.randint(256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(list(values))[:, None, None] for values in (augment.mean, augment.std))
    seen: list[Tensor] = []
    backbone = vggface2_senet50().eval()
    backbone.get_submodule("conv1").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    backbone((image / 255 - mean) / std)
    expected = image[:, [2, 1, 0]] - torch.tensor(MEAN_BGR)[:, None, None]
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-3)


def test_every_parameter_learns() -> None:
    backbone = vggface2_senet50()
    features = backbone(torch.randn(2, 3, 64, 64))
    (features * torch.randn_like(features)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    assert not [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all() or not grad.any()]


@pytest.mark.parametrize("allow_partial", [False, True])
def test_other_residual_networks_refuse_the_file(allow_partial: bool, tmp_path: Path) -> None:
    path = hollow_file(tmp_path / "senet.pth", excited=True)
    others: list[Backbone] = [vggface2_resnet50(), resnet(depth=50), resnet(depth=18)]
    for other in others:
        with pytest.raises(WeightsError, match=r"senet\.pth holds .* use backbone=senet50_vggface2$"):
            load_backbone_weights(other, path, name=other.name, allow_partial_weights=allow_partial)


def test_weights_of_other_residual_networks_are_refused(tmp_path: Path) -> None:
    path = hollow_file(tmp_path / "resnet.pth", excited=False)
    with pytest.raises(WeightsError, match=r"resnet\.pth holds .* use backbone=resnet50_vggface2$"):
        vggface2_senet50(weights=path)
    torch.save(resnet(depth=18).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match=r"use backbone=resnet18\b"):
        vggface2_senet50(weights=str(tmp_path / "resnet18.pth"))


def test_another_number_of_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose 3 or 4"):
        vggface2_senet50(stages=2)
