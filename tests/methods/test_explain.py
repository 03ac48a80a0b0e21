"""Maps of every method: of a linear classifier exactly the CAM, of any other head what its logits' gradients say."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from support.method_overrides import METHODS, overrides_of
from support.project import CHOICES, Train
from support.small_methods import build, raw_images
from torch import nn

from fer.config.compose import compose
from fer.config.settings import read_settings
from fer.errors import UserError
from fer.launch.run_job import resolve
from fer.methods.ce import CrossEntropy
from fer.methods.co_teaching import CoTeaching
from fer.methods.core.explain import explain, pooled_features
from fer.methods.dmue import DMUE
from fer.methods.ran import RAN
from fer.models.backbones import mobilenet_v2, resnet, tiny
from fer.models.cam import class_activation_maps
from fer.runs.predictions import read_labels
from fer.runs.run_folder import RunFolder, RunFolderError
from fer.training import experiment
from fer.training.finished_run import trained


@pytest.mark.parametrize(
    "backbone", [partial(tiny, width=8), partial(resnet, depth=18), mobilenet_v2], ids=["tiny", "resnet", "mobilenet"]
)
def test_of_a_linear_classifier_the_map_is_the_cam(backbone: object) -> None:
    method = build(CrossEntropy, backbone=backbone)
    view = method.augmentation.test_view(raw_images())
    logits, cam = explain(method, view)
    method.eval()
    features, expected = method.network(view)
    weight = method.network.classifier.weight
    torch.testing.assert_close(logits, expected.float())
    torch.testing.assert_close(cam, class_activation_maps(features, weight).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cam.mean((2, 3)) + method.network.classifier.bias.float(), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("evaluated", ["first", "second", "mean"])
def test_of_two_networks_the_map_is_that_of_what_is_evaluated(evaluated: str) -> None:
    method = build(CoTeaching, noise_ratio=0.3, evaluated=evaluated).eval()
    view = method.augmentation.test_view(raw_images())
    networks = (method.network, method.second_network)
    first, second = (class_activation_maps(n(view)[0], n.classifier.weight).float() for n in networks)
    expected = {"first": first, "second": second, "mean": (first + second) / 2}[evaluated]
    torch.testing.assert_close(explain(method, view).cam, expected, rtol=1e-4, atol=1e-5)


def test_a_head_that_scales_what_it_pools_scales_the_map() -> None:
    """DMUE's neck is affine in tests: maps are those of classifier and neck as one linear layer."""
    method = build(DMUE).eval()
    view = method.augmentation.test_view(raw_images())
    features = method.network.backbone(view)
    (norm,) = [module for module in method.neck.modules() if isinstance(module, nn.BatchNorm2d)]
    weight = method.network.classifier.weight * (norm.weight / (norm.running_var + norm.eps).sqrt())
    expected = class_activation_maps(features, weight).float()
    torch.testing.assert_close(explain(method, view).cam, expected, rtol=1e-4, atol=1e-5)


def test_a_compiled_backbone_is_explained_as_written_and_not_compiled_again() -> None:
    method = build(CrossEntropy).eval()
    view = method.augmentation.test_view(raw_images())
    expected = explain(method, view)
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    method.network.backbone.compile(backend=backend)
    method.network(view)
    count = len(compiled)
    assert count > 0
    torch.testing.assert_close(explain(method, view).cam, expected.cam)
    assert len(compiled) == count


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_what_it_evaluates(name: str, overrides: list[str], tmp_path: Path) -> None:
    # A classifier of 0 has no map before training.
    more = ["method.zero_head=false"] if name == "transfer" else []
    config = resolve(compose([*overrides, *overrides_of(name), *more]), CHOICES)
    method = experiment.build(read_settings(config), RunFolder(tmp_path)).method.train()
    modes = [module.training for module in method.modules()]
    view = method.augmentation.test_view(raw_images(4))
    logits, cam = explain(method, view)
    assert [module.training for module in method.modules()] == modes
    assert all(parameter.grad is None for parameter in method.parameters())
    assert logits.shape == (4, 3) and cam.shape == (4, 3, 4, 4) and cam.isfinite().all()
    assert cam.abs().amax((1, 2, 3)).min() > 0, "every face has a map"
    torch.testing.assert_close(logits, method.eval().classify(view))
    again = explain(method, view[:2])
    torch.testing.assert_close(again.cam, cam[:2], rtol=1e-3, atol=1e-4)


def test_pooled_features_are_what_the_logits_are_made_of() -> None:
    method = build(CrossEntropy)
    view = method.augmentation.test_view(raw_images())
    classifier = method.network.classifier
    pooled = pooled_features(method, view)
    assert method.training and pooled.dtype == torch.float32
    torch.testing.assert_close(
        pooled @ classifier.weight.T.float() + classifier.bias.float(),
        explain(method, view).logits,
        rtol=1e-4,
        atol=1e-5,
    )
    both = build(CoTeaching, noise_ratio=0.3, evaluated="mean").eval()
    networks = (both.network, both.second_network)
    expected = torch.cat([network.features(view).mean((2, 3)) for network in networks], 1)
    torch.testing.assert_close(pooled_features(both, view), expected.float(), rtol=1e-4, atol=1e-5)
    regions = build(RAN).eval()
    expected = regions.network.features(view).mean((2, 3))
    torch.testing.assert_close(pooled_features(regions, view), expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", ["last5", "holdout"])
def test_a_finished_run_is_loaded_without_its_data(protocol: str, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "method=scn", f"protocol={protocol}", "holdout_share=0.3", "data.on_bad_image=skip")
    folder = RunFolder(tmp_path / "run")
    config = folder.config()
    config["data"]["root"] = config["data"]["reader"]["root"] = str(tmp_path / "moved")
    folder.config_file.write_text(yaml.safe_dump(config))
    method = trained(folder)
    name = "best" if protocol == "holdout" else "last"
    state = torch.load(folder.last_checkpoint.with_name(f"{name}.ckpt"), weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    assert method.class_names == ("bar", "disc", "line") and not method.training


@pytest.mark.parametrize("damage", ["predictions.csv", "noise.csv", "checkpoints/last.ckpt", "result.json"])
def test_a_run_that_lacks_a_file_is_refused_by_its_name(damage: str, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "method=ce")
    (tmp_path / "run" / damage).unlink()
    expected = "no finished run" if damage == "result.json" else damage
    with pytest.raises(UserError, match=expected):
        trained(RunFolder(tmp_path / "run"))


def test_a_checkpoint_cut_short_is_refused_by_its_name(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "method=ce")
    checkpoint = RunFolder(tmp_path / "run").last_checkpoint
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    with pytest.raises(RunFolderError, match=r"last\.ckpt cannot be read"):
        trained(RunFolder(tmp_path / "run"))


def test_labels_that_fit_no_class_are_refused(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "method=ce")
    noise = tmp_path / "run" / "noise.csv"
    noise.write_text(noise.read_text().replace("disc", "dice"))
    with pytest.raises(RunFolderError, match=r"noise\.csv does not fit .*predictions\.csv"):
        read_labels(RunFolder(tmp_path / "run"))
