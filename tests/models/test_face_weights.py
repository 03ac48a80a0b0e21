"""Face-recognition weights with the names and shapes in which researchers have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from fer.models.backbones import resnet
from fer.models.iresnet import BLOCKS, CHANNELS, iresnet
from fer.models.weights.load import WeightsError


def arcface_state(depth: int) -> dict[str, torch.Tensor]:
    """Names and shapes of arcface_torch's ``backbone.pth``, written down one by one."""
    state: dict[str, torch.Tensor] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{part}"] = torch.rand(channels) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    state["conv1.weight"] = torch.randn(64, 3, 3, 3)
    norm("bn1", 64)
    state["prelu.weight"] = torch.rand(64)
    before = 64
    for layer, (channels, blocks) in enumerate(zip(CHANNELS, BLOCKS[depth], strict=True), start=1):
        for block in range(blocks):
            prefix = f"layer{layer}.{block}"
            norm(f"{prefix}.bn1", before)
            state[f"{prefix}.conv1.weight"] = torch.randn(channels, before, 3, 3) / 30
            norm(f"{prefix}.bn2", channels)
            state[f"{prefix}.prelu.weight"] = torch.rand(channels)
            state[f"{prefix}.conv2.weight"] = torch.randn(channels, channels, 3, 3) / 30
            norm(f"{prefix}.bn3", channels)
            if block == 0:
                state[f"{prefix}.downsample.0.weight"] = torch.randn(channels, before, 1, 1) / 10
                norm(f"{prefix}.downsample.1", channels)
            before = channels
    norm("bn2", 512)
    state["fc.weight"], state["fc.bias"] = torch.randn(512, 25088) / 100, torch.randn(512)
    norm("features", 512)
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_insightface_weights_fill_the_whole_backbone(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    state = arcface_state(18)
    torch.save({f"{prefix}{name}": value for name, value in state.items()}, path)
    backbone = iresnet(depth=18, weights=str(path)).eval()
    report = backbone.weights_report
    assert report is not None and report.share == 1 and not report.missing
    assert {name.partition(".")[0] for name in report.unexpected} == {"fc", "features"}
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 112, 112)).shape == (1, 512, 7, 7)
    with pytest.raises(WeightsError, match=r"larger network|fills only"):
        iresnet(depth=34, weights=str(path))


def test_msceleb_weights_of_eac_scn_and_rul_fill_resnet18(tmp_path: Path) -> None:
    """``resnet18_msceleb.pth``: torchvision's names below ``state_dict``, with a classifier of 1,000."""
    path = tmp_path / "resnet18_msceleb.pth"
    source = resnet18(weights=None)
    torch.save({"epoch": 90, "arch": "resnet18", "state_dict": source.state_dict(), "best_prec1": 0.9}, path)
    backbone = resnet(depth=18, weights=str(path)).eval()
    assert backbone.weights_report is not None
    assert backbone.weights_report.share == 1 and backbone.weights_report.unexpected == ("fc.weight", "fc.bias")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = torch.nn.Sequential(*list(source.eval().children())[:-2])(x)
        torch.testing.assert_close(backbone(x), expected)
