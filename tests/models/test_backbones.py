"""Backbones are the published networks, up to their last feature map, at any size of face."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hydra.utils import get_method, instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fer.config.compose import CONFIG_DIR
from fer.errors import ConfigError
from fer.models.backbones import STEMS, Backbone, mobilenet_v2, resnet, tiny
from fer.models.vggface2 import vggface2_resnet50, vggface2_senet50

CONFIGS = sorted((CONFIG_DIR / "backbone").glob("*.yaml"))
# Parameters are torchvision's without the classifier's 1,000 * (C + 1).
RESNETS = {18: (11_176_512, 1), 34: (21_284_672, 1), 50: (23_508_032, 4), 101: (42_500_160, 4), 152: (58_143_808, 4)}


def on_meta(build: Callable[..., Backbone], **arguments: Any) -> Backbone:
    """A backbone without memory for its tensors, which is enough for names, shapes and counts."""
    with torch.device("meta"):
        return build(**arguments)


def with_random_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch statistics and scales unlike those of a fresh network, so that a mistake in them shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                tensor.data.uniform_(low, low + 1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


@pytest.mark.parametrize("depth", RESNETS)
def test_resnets_are_those_of_table_1(depth: int) -> None:
    parameters, expansion = RESNETS[depth]
    backbone = on_meta(resnet, depth=depth)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        getattr(backbone, layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: shapes.update({layer: tuple(output.shape[1:])})
        )
    backbone(torch.empty(1, 3, 224, 224, device="meta"))

    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert shapes == {
        "conv1": (64, 112, 112),
        "layer1": (64 * expansion, 56, 56),
        "layer2": (128 * expansion, 28, 28),
        "layer3": (256 * expansion, 14, 14),
        "layer4": (512 * expansion, 7, 7),
    }
    convolutions = [n for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in n]
    assert len(convolutions) + 1 == depth, "the classifier is the last layer that counts"


@pytest.mark.parametrize(
    "build", [*(partial(resnet, depth=depth) for depth in RESNETS), vggface2_resnet50, vggface2_senet50]
)
def test_a_resnet_without_its_last_stage_is_what_comes_before_it(build: Callable[..., Backbone]) -> None:
    whole, cut = on_meta(build, stem="no_pool"), on_meta(build, stem="no_pool", stages=3)
    left_out = {name for name in whole.state_dict() if name.startswith("layer4.")}
    assert cut.state_dict().keys() == whole.state_dict().keys() - left_out
    view = torch.empty(1, 3, 112, 112, device="meta")
    assert cut(view).shape == (1, cut.num_features, 14, 14) == whole.trunk(view).shape
    assert cut.num_features == whole.num_features // 2


def test_a_resnet_without_its_last_stage_takes_the_weights_of_a_whole_one(tmp_path: Path) -> None:
    whole = with_random_statistics(resnet(depth=18, stem="no_pool"))
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    cut = resnet(depth=18, stem="no_pool", stages=3, weights=str(tmp_path / "whole.pth")).eval()
    assert cut.weights_report is not None and cut.weights_report.share == 1
    view = torch.randn(2, 3, 48, 48)
    assert torch.equal(cut(view), whole.trunk(view)) and cut.last_stage is cut.layer3


@pytest.mark.parametrize("stages", [2, 5, None])
def test_other_numbers_of_stages_are_refused(stages: int) -> None:
    with pytest.raises(ConfigError, match=f"backbone.stages={stages}: choose 3 or 4"):
        on_meta(resnet, depth=18, stages=stages)


@pytest.mark.parametrize(
    ("backbone", "reference", "head"),
    [
        *((lambda d=d: resnet(depth=d), getattr(torchvision.models, f"resnet{d}"), "fc.") for d in RESNETS),
        (vggface2_resnet50, torchvision.models.resnet50, "fc."),
        (mobilenet_v2, torchvision.models.mobilenet_v2, "classifier."),
    ],
)
def test_tensors_have_the_names_and_shapes_of_torchvision(
    backbone: Callable[..., Backbone], reference: Callable[..., nn.Module], head: str
) -> None:
    with torch.device("meta"):
        expected = {k: v.shape for k, v in reference().state_dict().items() if not k.startswith(head)}
    assert {k: v.shape for k, v in on_meta(backbone).state_dict().items()} == expected


@pytest.mark.parametrize(
    ("backbone", "reference", "head"),
    [
        (lambda: resnet(depth=18), torchvision.models.resnet18, "fc"),
        (lambda: resnet(depth=50), torchvision.models.resnet50, "fc"),
        (mobilenet_v2, torchvision.models.mobilenet_v2, "classifier"),
    ],
)
def test_pooled_features_and_torchvisions_classifier_give_torchvisions_logits(
    backbone: Callable[[], Backbone], reference: Callable[[], nn.Module], head: str
) -> None:
    torch.manual_seed(1)
    ours = backbone()
    torch.manual_seed(1)
    theirs = reference()
    # The same seed gives the same initial weights, and so the same random statistics fit both.
    ours, theirs = with_random_statistics(ours), with_random_statistics(theirs)
    image = torch.randn(2, 3, 70, 90)
    with torch.no_grad():
        logits = getattr(theirs, head)(ours(image).mean((2, 3)))
        torch.testing.assert_close(logits, theirs(image), rtol=1e-4, atol=1e-4)


def expected_size(name: str, stem: str, size: int) -> int:
    """Strides one after the other; every convolution keeps ceil(n / stride) pixels, the VGGFace2 pool floor(n / 2)."""
    if name == "tiny":
        return ceil(size / 8)
    first = ceil(size / 2) if stem != "small" else size
    pooled = first if stem != "imagenet" else first // 2 if name.endswith("_vggface2") else ceil(first / 2)
    return ceil(pooled / 8)


BUILDERS: dict[str, Callable[..., Backbone]] = {
    "resnet18": lambda stem: resnet(depth=18, stem=stem),
    "resnet50_vggface2": lambda stem: vggface2_resnet50(stem=stem),
    "senet50_vggface2": lambda stem: vggface2_senet50(stem=stem),
    "mobilenet_v2": lambda stem: mobilenet_v2(stem=stem),
    "tiny": lambda stem: tiny(),
}


@cache
def built(name: str, stem: str) -> nn.Module:
    return BUILDERS[name](stem=stem).eval()


@torch.no_grad()
def map_size(name: str, stem: str, height: int, width: int) -> tuple[int, ...]:
    return tuple(built(name, stem)(torch.zeros(1, 3, height, width)).shape[2:])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(BUILDERS)), st.sampled_from(STEMS), st.integers(32, 120), st.integers(32, 120))
def test_map_size_follows_from_the_stem(name: str, stem: str, height: int, width: int) -> None:
    expected = expected_size(name, stem, height), expected_size(name, stem, width)
    assert map_size(name, stem, height, width) == expected


@pytest.mark.parametrize(
    ("stem", "size", "expected"),
    [
        ("small", 48, 6),
        ("small", 56, 7),
        ("small", 64, 8),
        ("no_pool", 96, 6),
        ("no_pool", 100, 7),
        ("no_pool", 112, 7),
        ("imagenet", 224, 7),
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "resnet50_vggface2", "senet50_vggface2", "mobilenet_v2"])
def test_small_faces_give_a_map_of_about_7x7(name: str, stem: str, size: int, expected: int) -> None:
    assert map_size(name, stem, size, size) == (expected, expected)


@pytest.mark.parametrize(("stem", "sizes"), [("imagenet", (32, 16)), ("no_pool", (32, 32)), ("small", (64, 64))])
@torch.no_grad()
def test_a_mobilenet_gives_up_its_strides_where_a_resnet_does(stem: str, sizes: tuple[int, int]) -> None:
    """First the second one, which takes the place of the max-pool; the first convolution keeps its own longest."""
    features = built("mobilenet_v2", stem).features
    first = features[0](torch.zeros(1, 3, 64, 64))
    assert (first.shape[2], features[2](features[1](first)).shape[2]) == sizes


def test_an_unknown_depth_or_stem_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"depth=20.*18, 34, 50, 101, 152"):
        resnet(depth=20)
    for build in (lambda stem: resnet(depth=18, stem=stem), vggface2_resnet50, vggface2_senet50, mobilenet_v2):
        with pytest.raises(ConfigError, match=r"stem=cifar.*imagenet, no_pool, small"):
            build(stem="cifar")


def reference_vggface2_features(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network written out from the description of the Caffe model, without any module."""

    def normalized(x: Tensor, bn: str) -> Tensor:
        mean, var = state[f"{bn}.running_mean"], state[f"{bn}.running_var"]
        scale = state[f"{bn}.weight"] / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (state[f"{bn}.bias"] - mean * scale)[:, None, None]

    x = normalized(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1").relu()
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=0, ceil_mode=True)
    for layer, blocks in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = normalized(F.conv2d(x, state[f"{at}.conv1.weight"], stride=stride), f"{at}.bn1").relu()
            y = normalized(F.conv2d(y, state[f"{at}.conv2.weight"], padding=1), f"{at}.bn2").relu()
            y = normalized(F.conv2d(y, state[f"{at}.conv3.weight"]), f"{at}.bn3")
            if block == 0:
                x = F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride)
                x = normalized(x, f"{at}.downsample.1")
            x = (x + y).relu()
    return x


@pytest.fixture(scope="module")
def vggface2() -> nn.Module:
    torch.manual_seed(2)
    return with_random_statistics(vggface2_resnet50())


def test_vggface2_resnet50_computes_what_the_caffe_model_is_described_to(vggface2: nn.Module) -> None:
    image = torch.randn(1, 3, 96, 80)
    with torch.no_grad():
        expected = reference_vggface2_features(vggface2.state_dict(), image)
        torch.testing.assert_close(vggface2(image), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_torchvisions_resnet50_computes_something_else_with_the_same_weights(vggface2: nn.Module) -> None:
    other = resnet(depth=50).eval()
    other.load_state_dict(vggface2.state_dict())
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        ours, theirs = vggface2(image), other(image)
        assert ours.shape == theirs.shape
        assert float((ours - theirs).norm() / ours.norm()) > 0.1
        # Each of the two differences alone changes the result too.
        pooled = torch.randn(1, 64, 48, 48)
        assert vggface2.maxpool(pooled).shape == other.maxpool(pooled).shape
        assert not torch.equal(vggface2.maxpool(pooled), other.maxpool(pooled))
        strided = torch.randn(1, 256, 12, 12)
        assert vggface2.layer2(strided).shape == other.layer2(strided).shape
        assert not torch.allclose(vggface2.layer2(strided), other.layer2(strided), rtol=0.1)
        unstrided = torch.randn(1, 64, 12, 12)
        torch.testing.assert_close(vggface2.layer1(unstrided), other.layer1(unstrided))


def test_tiny_is_small_and_fast_enough_for_a_cpu() -> None:
    backbone = tiny()
    assert 200_000 <= sum(p.numel() for p in backbone.parameters()) <= 300_000
    with FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 64, 64))
    assert counter.get_total_flops() / 2 < 30e6, "multiply-adds per 64 px image"


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "tiny"])
def test_every_parameter_learns(name: str, stem: str) -> None:
    backbone = BUILDERS[name](stem=stem)
    features = backbone(torch.randn(2, 3, 48, 48))
    (features * torch.randn_like(features)).sum().backward()
    dead = [
        n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert not dead


def test_a_new_stem_is_initialized_like_torchvisions_convolutions() -> None:
    torch.manual_seed(3)
    weight = resnet(depth=18, stem="small").conv1.weight
    assert weight.shape == (64, 3, 3, 3)
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_builds_the_backbone_it_is_named_after(path: Path) -> None:
    assert path.read_text().startswith("# @package _global_\n")
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(config, dict)
    arguments = {key: value for key, value in config["backbone"].items() if key != "_target_"}
    signature = inspect.signature(get_method(config["backbone"]["_target_"]))
    assert 0 < config["optim"]["lr"] < 0.01
    assert set(arguments) == set(signature.parameters), "every keyword can be set on the command line"
    if path.stem == "timm":  # a name is missing: see test_timm.py
        return
    with torch.device("meta"):
        backbone = instantiate(config["backbone"])
        assert backbone.name == path.stem
        assert backbone(torch.empty(2, 3, 64, 64)).shape[1] == backbone.num_features


def test_the_learning_rates_published_for_eac_are_configured() -> None:
    rates = {path.stem: OmegaConf.load(path).optim.lr for path in CONFIGS}
    assert rates["resnet18"] == 2e-4
    assert rates["resnet50_vggface2"] == 1e-4
