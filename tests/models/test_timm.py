"""Models of timm as backbones: their maps, their weights, and a run with one."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.project import CHOICES

from fer.config.compose import compose
from fer.errors import ConfigError
from fer.launch import run_job
from fer.models.cam import class_activation_maps
from fer.models.network import FaceNetwork
from fer.models.timm_backbone import timm_backbone
from fer.models.weights.load import WeightsError

timm = pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors.torch")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet10t", (512, 2, 2)),
        ("convnext_atto", (320, 2, 2)),
        ("vit_tiny_patch16_224", (192, 4, 4)),  # 16 tokens behind one for the class
        ("deit_tiny_distilled_patch16_224", (192, 4, 4)),  # behind two
        ("swin_tiny_patch4_window7_224", (768, 2, 2)),  # channels last
        ("mixer_s16_224", (512, 4, 4)),  # no token for the class
    ],
)
def test_the_map_is_that_of_the_image(name: str, shape: tuple[int, ...]) -> None:
    backbone = timm_backbone(name=name, image_size=64).eval()
    network = FaceNetwork(backbone, 7)
    assert network.map_shape(64) == shape
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features, logits = network(x)
        cam = class_activation_maps(features, network.classifier.weight)
        torch.testing.assert_close(cam.mean((2, 3)) + network.classifier.bias, logits, rtol=1e-4, atol=1e-5)


def test_tokens_are_folded_row_by_row() -> None:
    """A model whose only layer cuts the image into patches: the token of a patch stands where the patch is."""
    backbone = timm_backbone(name="vit_tiny_patch16_224", image_size=64).eval()
    x = torch.zeros(1, 3, 64, 64)
    x[..., 16:32, 48:64] = 1.0  # second row, fourth column
    model: Any = backbone.model
    model.forward_features = lambda view: torch.cat([torch.zeros(1, 1, 192), model.patch_embed(view)], 1)
    with torch.no_grad():
        changed = (backbone(x) - backbone(torch.zeros_like(x))).abs().sum(1)[0] > 0
    assert changed.nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_file(suffix: str, tmp_path: Path) -> None:
    source = timm.create_model("convnext_atto", pretrained=False, num_classes=1000)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        safetensors.save_file(source.state_dict(), path)
    backbone = timm_backbone(name="convnext_atto", image_size=64, weights=str(path)).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), source.eval().forward_features(x))
    assert backbone.weights_report is not None and backbone.weights_report.share > 0.9
    with pytest.raises(WeightsError, match=r"fits backbone=timm/resnet10t|fills only"):
        timm_backbone(name="resnet10t", image_size=64, weights=str(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="is refused, and nothing in it was run"):
        timm_backbone(name="convnext_atto", image_size=64, weights=str(path))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("convnext_ato", "timm has no such model; perhaps convnext"),
        ("maxvit_pico_rw_256", r"cannot be made for augment\.size=72: .*divisible"),
    ],
)
def test_what_timm_cannot_make_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        timm_backbone(name=name, image_size=72)


def test_without_timm_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any, **keywords: Any) -> Any:
        if name == "timm":
            raise ImportError(name)
        return real(name, *more, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r'pip install "noisy-label-fer\[timm\]"'):
        timm_backbone(name="resnet10t", image_size=64)


def test_every_layer_is_trained() -> None:
    """Layers behind the map are removed; a gradient would not reach the norm in convnext's head."""
    backbone = timm_backbone(name="convnext_atto", image_size=64)
    backbone(torch.rand(2, 3, 64, 64)).sum().backward()
    assert backbone.training and all(parameter.grad is not None for parameter in backbone.parameters())


def test_a_run_trains_and_its_folder_gives_weights(overrides: list[str], tmp_path: Path) -> None:
    values = [value for value in overrides if not value.startswith("backbone")]
    config = compose([*values, "backbone=timm", "backbone.name=test_resnet"])
    assert config.backbone.image_size == config.augment.size
    run_job.run(config, tmp_path / "run", {**CHOICES, "backbone": "timm"})
    assert json.loads((tmp_path / "run" / "result.json").read_text())["choices"]["backbone"] == "timm"
    started = timm_backbone(name="test_resnet", image_size=32, weights=str(tmp_path / "run"))
    assert started.weights_report is not None and started.weights_report.share == 1
