"""face.evoLVe's IR-50: its files as researchers have them, and the network against a second implementation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fer.config.compose import compose
from fer.models.ir50 import ir50
from fer.models.iresnet import iresnet
from fer.models.weights.load import WeightsError

State = dict[str, Tensor]
# Input channels, output channels and stride of each block.
BLOCKS = [
    *[(64, 64, 2)], *[(64, 64, 1)] * 2,
    *[(64, 128, 2)], *[(128, 128, 1)] * 3,
    *[(128, 256, 2)], *[(256, 256, 1)] * 13,
    *[(256, 512, 2)], *[(512, 512, 1)] * 2,
]  # fmt: skip
CUT = 21
"""Blocks of the first three stages."""


def published_state(*, excited: bool = False, hollow: bool = False) -> State:
    """Names and shapes of ``backbone_ir50_ms1m_epoch120.pth``, written down one by one.

    Args:
        excited: add the tensors of IR-SE-50.
        hollow: take no memory.
    """
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def add(name: str, *shape: int) -> None:
        if hollow or name == "output_layer.3.weight":
            state[name] = torch.zeros(()).expand(shape)
        elif len(shape) == 1:
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            add(f"{name}.{part}", channels)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    add("input_layer.0.weight", 64, 3, 3, 3)
    norm("input_layer.1", 64)
    add("input_layer.2.weight", 64)
    norm("output_layer.0", 512)
    add("output_layer.3.weight", 512, 25088)
    add("output_layer.3.bias", 512)
    norm("output_layer.4", 512)
    for number, (inputs, outputs, _) in enumerate(BLOCKS):
        at = f"body.{number}"
        if inputs != outputs:
            add(f"{at}.shortcut_layer.0.weight", outputs, inputs, 1, 1)
            norm(f"{at}.shortcut_layer.1", outputs)
        norm(f"{at}.res_layer.0", inputs)
        add(f"{at}.res_layer.1.weight", outputs, inputs, 3, 3)
        add(f"{at}.res_layer.2.weight", outputs)
        add(f"{at}.res_layer.3.weight", outputs, outputs, 3, 3)
        norm(f"{at}.res_layer.4", outputs)
        if excited:
            add(f"{at}.res_layer.5.fc1.weight", outputs // 16, outputs, 1, 1)
            add(f"{at}.res_layer.5.fc2.weight", outputs, outputs // 16, 1, 1)
    return state


def features_by_hand(state: State, x: Tensor, blocks: int) -> Tensor:
    """Second implementation, without any module, up to the end of a block."""

    def normalized(x: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (
            state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def rectified(x: Tensor, name: str) -> Tensor:
        return x.clamp(min=0) + state[f"{name}.weight"][:, None, None] * x.clamp(max=0)

    x = F.conv2d(x, state["input_layer.0.weight"], padding=1)
    x = rectified(normalized(x, "input_layer.1"), "input_layer.2")
    for number, (inputs, outputs, stride) in enumerate(BLOCKS[:blocks]):
        at = f"body.{number}"
        y = F.conv2d(normalized(x, f"{at}.res_layer.0"), state[f"{at}.res_layer.1.weight"], padding=1)
        y = F.conv2d(rectified(y, f"{at}.res_layer.2"), state[f"{at}.res_layer.3.weight"], stride=stride, padding=1)
        x = x[:, :, ::stride, ::stride]
        if inputs != outputs:
            x = normalized(F.conv2d(x, state[f"{at}.shortcut_layer.0.weight"]), f"{at}.shortcut_layer.1")
        x = normalized(y, f"{at}.res_layer.4") + x
    return x


@pytest.fixture(scope="module")
def published() -> State:
    return published_state()


@pytest.mark.parametrize(("stages", "shape"), [(4, (512, 7, 7)), (3, (256, 14, 14))])
def test_the_published_file_fills_the_whole_backbone(
    stages: Literal[3, 4], shape: tuple[int, ...], published: State, tmp_path: Path
) -> None:
    torch.save(published, tmp_path / "backbone_ir50_ms1m_epoch120.pth")
    backbone = ir50(stages=stages, weights=str(tmp_path / "backbone_ir50_ms1m_epoch120.pth")).eval()
    report = backbone.weights_report
    assert report is not None and report.share == 1 and not report.missing and not report.mismatched
    left_out = {name.partition(".")[0] for name in report.unexpected}
    assert left_out == ({"output_layer"} if stages == 4 else {"output_layer", "layer4"})
    assert len(report.loaded) == len(backbone.state_dict())
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 112, 112)).shape == (1, *shape)
    assert backbone.num_features == shape[0]


@pytest.mark.parametrize("stages", [3, 4])
@torch.no_grad()
def test_the_network_is_that_of_a_second_implementation(
    stages: Literal[3, 4], published: State, tmp_path: Path
) -> None:
    torch.save(published, tmp_path / "weights.pth")
    x = torch.randn(2, 3, 48, 37, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = {name: tensor.double() for name, tensor in published.items()}
    wanted = features_by_hand(state, x, CUT if stages == 3 else 24)
    found = ir50(stages=stages, weights=str(tmp_path / "weights.pth")).eval().double()(x)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8 * float(wanted.abs().max()))


@pytest.mark.parametrize("layout", ["plain", "wrapped", "apart"])
def test_a_file_cut_after_the_third_stage_fills_the_first_three(layout: str, published: State, tmp_path: Path) -> None:
    """``ir50.pth``, alone, as a checkpoint of several devices, or with the names of POSTER++."""
    late = tuple(f"body.{number}." for number in range(CUT, 24))
    state = {name: tensor for name, tensor in published.items() if not name.startswith(late)}
    content: dict[str, object] = {**state}
    if layout == "wrapped":
        content = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}
    if layout == "apart":
        content = {}
        for name, tensor in state.items():
            part, _, rest = name.partition(".")
            number, _, inner = rest.partition(".")
            if part == "body":
                stage, first = next((s, f) for s, f in ((3, 7), (2, 3), (1, 0)) if int(number) >= f)
                name = f"body{stage}.{int(number) - first}.{inner}"
            content[name] = tensor
    torch.save(content, tmp_path / "ir50.pth")
    backbone = ir50(stages=3, weights=str(tmp_path / "ir50.pth"))
    assert backbone.weights_report is not None and backbone.weights_report.share == 1
    assert backbone.get_parameter("layer2.0.res_layer.3.weight").equal(state["body.3.res_layer.3.weight"])
    assert backbone.get_parameter("layer3.13.res_layer.2.weight").equal(state["body.20.res_layer.2.weight"])
    with pytest.raises(WeightsError, match=r"ir50\.pth fills only 8\d\.\d% .*\n  missing: .*layer4\.0"):
        ir50(weights=str(tmp_path / "ir50.pth"))


def test_a_trained_backbone_is_read_by_its_own_names(tmp_path: Path) -> None:
    source = ir50(stages=3)
    torch.save({f"network.backbone.{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path / "w.pth")
    again = ir50(stages=3, weights=str(tmp_path / "w.pth"))
    torch.testing.assert_close(again.state_dict(), source.state_dict(), rtol=0, atol=0)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(published_state(excited=True, hollow=True), path)
    with pytest.raises(WeightsError, match=r"larger network than backbone=ir50, .* no place for 48 of"):
        ir50(weights=str(path))
    longer = {name.replace("body.5.", "body.48."): tensor for name, tensor in published_state(hollow=True).items()}
    torch.save(published_state(hollow=True) | longer, path)
    with pytest.raises(WeightsError, match="larger network than backbone=ir50"):
        ir50(weights=str(path))
    torch.save(iresnet(depth=18).state_dict(), path)
    with pytest.raises(WeightsError, match=r"nothing in .* fits backbone=ir50"):
        ir50(weights=str(path))


def test_every_parameter_learns() -> None:
    backbone = ir50()
    features = backbone(torch.randn(2, 3, 32, 32))
    (features * torch.randn_like(features)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    assert not [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all() or not grad.any()]


def test_views_are_normalized_to_minus_1_to_1() -> None:
    augment = compose(["backbone=ir50", "data=ferplus", "data.root=x"]).augment
    assert (augment.size, {*augment.mean}, {*augment.std}) == (112, {0.5}, {0.5})
