"""Every option of every group composes, fits the signature of what it names, and runs; the paper's values stand."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from support.method_overrides import overrides_of
from support.project import CHOICES, PROJECT, Train
from support.run_dirs import run_dir

from fer.config.compose import CONFIG_DIR, compose
from fer.config.instantiate import instantiate_node
from fer.config.settings import read_settings
from fer.launch.run_job import resolve
from fer.methods.eac import ConsistencyKeys
from fer.runs.run_folder import RunFolder
from fer.training import experiment

# Options of these are chosen together with others, in ways of their own: Hydra's own groups, and a user's defaults.
NOT_GROUPS = {"hydra", "local"}
GROUPS = sorted(path.name for path in CONFIG_DIR.iterdir() if path.is_dir() and path.name not in NOT_GROUPS)
OPTIONS = {group: sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")) for group in GROUPS}
ALL_OPTIONS = [f"{group}={option}" for group, options in OPTIONS.items() for option in options]
CONFIG_FILES = sorted(CONFIG_DIR.rglob("*.yaml"))

_PARENT_OF_HOME = r"home|root|Users|work|mnt|media|tmp|var|opt|scratch|data\d*"
MACHINE_PATH = re.compile(rf"(?<![\w.:}}/-])(?:/(?:{_PARENT_OF_HOME})/\S|~/\S|[A-Za-z]:\\)")


def targets(config: Any) -> Iterator[dict[str, Any]]:
    """Every node with a ``_target_``, at any depth."""
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from targets(value)


def arguments(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if not re.fullmatch("_[a-z]+_", key)}


def test_the_groups_are_the_documented_ones() -> None:
    documented = {
        "method", "backbone", "data", "noise", "augment", "optim", "trainer", "callbacks", "logger", "experiment",
        "debug",
    }  # fmt: skip
    assert documented <= {*GROUPS} <= documented | {"sweep"}
    assert all(OPTIONS[group] for group in documented)


@pytest.mark.parametrize("option", ALL_OPTIONS)
def test_every_option_composes_and_fits_the_signatures_it_names(option: str) -> None:
    config, group = compose([option]), option.partition("=")[0]
    assert {"fer.views.augmentation.Augmentation", "lightning.pytorch.Trainer"} <= {
        node["_target_"] for node in targets(config)
    }
    # Options of experiment, debug and sweep speak of the other groups.
    for node in targets(config.get(group, config)):
        # Raises TypeError for a key that the target does not take.
        inspect.signature(get_object(node["_target_"])).bind_partial(**arguments(node))


def test_a_key_that_the_target_does_not_take_is_found() -> None:
    (node,) = targets(compose(["method=ce", "+method.lamda=5"]).method)
    with pytest.raises(TypeError, match="lamda"):
        inspect.signature(get_object(node["_target_"])).bind_partial(**arguments(node))


@pytest.mark.parametrize("group", ["method", "backbone", "data", "noise", "augment"])
def test_files_show_every_setting_of_what_they_name(group: str) -> None:
    """``fer-train --cfg job`` and a run's config.yaml hold all that can be set, defaults included."""
    for option in OPTIONS[group]:
        for node in targets(compose([f"{group}={option}"])[group]):
            parameters = inspect.signature(get_object(node["_target_"])).parameters.values()
            settings = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
            if any(parameter.name == "consistency" for parameter in parameters):
                settings |= set(ConsistencyKeys.__annotations__)
            assert settings <= arguments(node).keys(), f"{group}/{option}.yaml"


@pytest.mark.parametrize("method", OPTIONS["method"])
def test_every_method_trains_on_two_batches_and_evaluates(method: str, overrides: list[str], tmp_path: Path) -> None:
    short = [
        "batch_size=8",
        "trainer.max_epochs=1",
        "+trainer.limit_train_batches=2",
        "trainer.enable_progress_bar=false",
    ]
    config = resolve(compose([*overrides, *overrides_of(method), *short]), {**CHOICES, "method": method})
    folder = RunFolder(tmp_path / "run")
    folder.open(config, [])
    result = experiment.train(read_settings(config), folder)

    checkpoint = torch.load(folder.last_checkpoint, map_location="cpu", weights_only=True)
    settings = {key: value for key, value in config["method"].items() if key != "_target_"}
    assert dict(checkpoint.get("hyper_parameters", {})) == settings
    untrained = experiment.build(read_settings(config), folder, for_training=False).method.state_dict()
    method_of_run = experiment.build(read_settings(config), folder, for_training=False).method
    trained = [name for name, parameter in method_of_run.named_parameters() if parameter.requires_grad]
    assert "network.backbone.conv1.weight" in trained
    assert [name for name in trained if torch.equal(checkpoint["state_dict"][name], untrained[name])] == []
    (record,) = folder.records()
    assert 0 < record["train/loss"] < float("inf") and 0 <= result["metrics"]["test/acc"] <= 1
    tested = experiment.evaluate(read_settings(config), folder)
    assert tested == {key: record[key] for key in tested} and "test/macro_acc" in tested


@pytest.mark.parametrize("name", sorted({*OPTIONS["backbone"]} - {"timm"}))  # whose map depends on the model
def test_every_backbone_gives_the_map_that_its_file_promises(name: str) -> None:
    config = compose([f"backbone={name}"])
    text = (CONFIG_DIR / "backbone" / f"{name}.yaml").read_text()
    promise = re.search(r"(?P<size>\d+) px give a (?P<edge>\d+)x|a (?P<of>\d+)x\d+ map: imagenet (?P<at>\d+) px", text)
    assert promise, "the file says which map views of which size give"
    size, edge = int(promise["size"] or promise["at"]), int(promise["edge"] or promise["of"])
    with torch.device("meta"):
        backbone = instantiate(config.backbone)
        features = backbone(torch.empty(2, 3, size, size))
    assert features.shape == (2, backbone.num_features, edge, edge)
    assert backbone.name == name


def test_augmentation_and_logger_can_be_switched_off(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "augment=none", "augment.size=32", "logger=none", "trainer.max_epochs=1")
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize("forward", ["joint_per_view_statistics", "joint"])
def test_one_pass_trains_too(forward: str, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", f"method.forward={forward}", "method.erase=independent", "trainer.max_epochs=1")


def test_the_presets_choice_of_eacs_views_is_for_eac_alone() -> None:
    assert compose(["method=eac"]).method.erase == "shared"
    assert compose(["experiment=eac_raf_db", "method.erase=shared"]).method.erase == "shared"
    assert "erase" not in compose(["experiment=eac_raf_db", "method=ce"]).method
    assert compose(["sweep=raf_db_noise"]).method.erase == "released"


def test_transfers_backbone_has_the_map_of_the_released_code() -> None:
    config = compose(["experiment=transfer_raf_db"])
    with torch.device("meta"):
        features = instantiate(config.backbone)(torch.empty(1, 3, config.augment.size, config.augment.size))
    assert features.shape == (1, 256, 14, 14)


@pytest.mark.parametrize(
    ("preset", "names", "sizes", "test_resize", "erasing", "flip"),
    [
        ("dacl", ["Resize", "RandomFiveCrop"], [256, 224], 256, (0.0, 0.02, 0.25, "log_uniform"), 0.5),
        ("dmue", ["Resize", "RandomCrop"], [256, 224], 256, (0.5, 0.02, 0.25, "uniform"), 0.5),
        ("lde", ["Resize", "RandomResizedCrop", "ColorJitter"], [224, 224], 224, (0.2, 0.02, 0.2, "log_uniform"), 0.5),
        ("man", ["RandomApply", "ColorJitter", "RandomAffine"], [], 224, (0.5, 0.02, 0.25, "log_uniform"), 0.5),
        ("resup", ["Resize", "RandomApply", "RandomCrop"], [224, 224], 224, (0.5, 0.02, 0.25, "log_uniform"), 0.5),
        ("transfer", ["RandomResizedCrop", "PaddleRandAugment"], [112], 112, (0.5, 0.02, 0.4, "uniform"), 0.5),
        ("eac", [], [], 224, (0.5, 0.02, 0.25, "log_uniform"), 0.0),
    ],
)
def test_a_presets_augmentation_is_its_authors(
    preset: str,
    names: list[str],
    sizes: list[int],
    test_resize: int,
    erasing: tuple[float, float, float, str],
    flip: float,
) -> None:
    config = OmegaConf.to_container(compose([f"experiment={preset}_raf_db", "data.root=x"]).augment, resolve=True)
    built = instantiate_node(config, "augment", _partial_=False)
    made = [module for module in built.transforms.modules() if not isinstance(module, torch.nn.Sequential)]
    assert [type(module).__name__ for module in made] == names
    assert [module.size for module in made if hasattr(module, "size")] == sizes
    assert built.test_resize == test_resize and built.flip_probability == flip
    assert (built.erase_probability, *built.erase_area, built.erase_aspect_law) == erasing


def test_pixels_of_a_recipe_scale_with_the_views() -> None:
    config = compose(["augment=dacl", "augment.size=112"]).augment
    assert (config.transforms.resize.size, config.transforms.crop.size, config.test_resize) == (128, 112, 128)
    assert compose(["augment=resup", "augment.size=56"]).augment.transforms.move.transforms[0].padding == 8


def test_dmue_is_trained_on_plateaus_of_its_authors() -> None:
    config = compose(["experiment=dmue_raf_db"])
    slow, fast = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    factor = config.method.classifier_lr_factor
    groups = [{"params": [slow]}, {"params": [fast], "lr": 1e-4 * factor, "lr_factor": factor}]
    optimizer = instantiate(config.optim.optimizer)(groups)
    scheduler = instantiate(config.optim.scheduler)(optimizer)
    rates = []
    for _ in range(36):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    backbone = [1e-4] * 6 + [5e-5] * 6 + [1e-5] * 10 + [5e-5] * 3 + [1e-5] * 11
    classifiers = [1e-3] * 4 + [5e-4] * 4 + [1e-4] * 6 + [1e-5] * 8 + [5e-5] * 3 + [1e-5] * 11
    assert rates == [pytest.approx(pair) for pair in zip(backbone, classifiers, strict=True)]
    with pytest.raises(ValueError, match="ascending epochs from 0"):
        instantiate(config.optim.scheduler, starts=[0, 6])(optimizer)


@pytest.mark.parametrize(("epochs", "expected"), [(140, 18), (70, 9), (35, 6), (7, 6), (2, 2)])
def test_epochs_of_a_paper_scale_with_the_training(epochs: int, expected: int) -> None:
    assert compose(["method=scn", f"trainer.max_epochs={epochs}"]).method.relabel_from == expected


def commands() -> list[str]:
    """The ``fer-train`` commands in the comments of the configuration files, without what is said about them."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in CONFIG_FILES)
    found = re.findall(r"^#.*?\bfer-train((?: (?:-m|[\w./~+]+=[^\s`]+))+)", text, flags=re.MULTILINE)
    return sorted({command.strip() for command in found})


@pytest.mark.parametrize("command", commands())
def test_commands_in_comments_compose(command: str) -> None:
    swept = "-m" in command.split()
    overrides = [word for word in shlex.split(command) if word != "-m"]
    # Of a sweep its first job.
    compose([re.sub(r"=([^\[,]+),.*", r"=\1", override) if swept else override for override in overrides])


def test_comments_show_commands() -> None:
    assert len(commands()) >= 4


@pytest.mark.parametrize("file", CONFIG_FILES, ids=lambda file: str(file.relative_to(CONFIG_DIR)))
def test_files_name_no_path_of_a_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not MACHINE_PATH.findall(text)
    for value in _strings(yaml.safe_load(text)):
        assert not re.match(r"[/~\\]|[A-Za-z]:\\", value), f"{value}: make it relative, or take it from ${{oc.env:...}}"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = value.values()
    elif isinstance(value, str):
        yield value
        return
    elif not isinstance(value, list):
        return
    for item in value:
        yield from _strings(item)


@pytest.mark.parametrize(
    "line", ["# /home/me/raf", "root: /home/you/faces", "x: ~/raf-basic", "y: C:\\raf", "(/tmp/x)"]
)
def test_paths_of_a_machine_are_recognized(line: str) -> None:
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "method: .*eac"),
        (["--cfg", "job"], 0, "fer.methods.eac.EAC"),
        (["method.lamda=5"], 2, r"method\.lamda \(did you mean method\.lam\?\)"),
        (["bach_size=64"], 2, r"bach_size \(did you mean batch_size\?\)"),
        (["method=eca"], 2, r"method=eca \(did you mean eac\?\)"),
        (["seed=-1"], 2, "seed"),
        (["noise=file"], 2, "noise.path"),
        (["data=folder"], 2, "data.root"),
    ],
)
def test_help_and_mistakes_are_answered_at_once_and_leave_no_folder(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "FER_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fer.cli.train", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert re.search(said, done.stderr if status else done.stdout)
    assert "Traceback" not in done.stderr
    assert not [*tmp_path.iterdir()]
    imported = set(re.findall(r"^import time: .*\| +(\w+)$", done.stderr, re.MULTILINE))
    assert "hydra" in imported and not imported & {"torch", "lightning", "matplotlib", "scipy"}  # these take seconds


def test_a_misspelt_key_is_named() -> None:
    with pytest.raises(HydraException, match="lamda"):
        compose(["method.lamda=5"])


def test_run_folders_are_named_by_content() -> None:
    assert run_dir() == "demo/eac-tiny-symmetric0.3-lam5/seed0"
    ce = run_dir("experiment=ce_raf_db", "noise=pair", "noise.ratio=0.20", "seed=4")
    assert ce == "ce_raf_db/ce-resnet18-pair0.2/seed4"
    assert run_dir("data=raf_db").startswith("raf_db/eac-resnet18-none-lam5/")


def test_other_keys_are_appended_unless_they_cannot_change_a_result() -> None:
    folder = run_dir("optim.lr=0.1", "augment.size=32", "num_workers=2")
    assert folder == "demo/eac-tiny-symmetric0.3-lam5-augment.size@32-optim.lr@0.1/seed0"
    assert run_dir("backbone.weights=face.pth").endswith("-backbone.weights@face.pth/seed0")


def test_long_names_end_in_a_hash_that_tells_them_apart() -> None:
    keys = ["mean=[0.5,0.5,0.5]", "std=[0.25,0.25,0.25]", "pixel_noise_probability=0.25", "erase_probability=0.75"]
    more = [f"augment.{key}" for key in keys]
    first, second = (run_dir(f"augment.pixel_noise_variance={variance}", *more) for variance in (25, 35))
    assert first != second
    assert first == run_dir("augment.pixel_noise_variance=25", *reversed(more))
    assert len(Path(first).parent.name) == len(Path(second).parent.name) == 120
