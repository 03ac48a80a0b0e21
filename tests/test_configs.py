"""Every option of every group composes, fits its constructor and trains."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PROJECT, Train
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from fer.config import CONFIG_DIR, compose
from fer.report import markdown

OPTIONS = sorted(
    (file.parent.name, file.stem) for file in CONFIG_DIR.glob("*/*.yaml") if file.parent.name not in ("hydra", "local")
)
METHODS = [option for group, option in OPTIONS if group == "method"]
BACKBONES = [option for group, option in OPTIONS if group == "backbone"]
NEEDED = {("noise", "file"): ["noise.path=list.txt"], ("data", "folder"): ["data.root=faces"]}


def composed(group: str, option: str) -> DictConfig:
    return compose([f"{group}={option}", *NEEDED.get((group, option), [])])


def targets(node: Any) -> Iterator[DictConfig]:
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from targets(node[key])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_fits_the_signatures_of_its_targets(group: str, option: str) -> None:
    config = composed(group, option)
    found = list(targets(config))
    assert found
    for node in found:
        arguments = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
        if node._target_ == "lightning.pytorch.Trainer":
            continue  # its signature is hidden by a decorator; training below calls it
        inspect.signature(get_object(node._target_)).bind_partial(**arguments)
    text = (CONFIG_DIR / group / f"{option}.yaml").read_text()
    assert "/home" not in text and "/root" not in text


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method: str, train: Train, tmp_path: Path) -> None:
    result = train(tmp_path / "run", f"method={method}", "trainer.max_epochs=1")
    assert 0 <= result["metrics"]["test/acc"] <= 1
    assert result["last_epoch"]["train/loss"] > 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_gives_a_map_of_its_features(backbone: str) -> None:
    with torch.device("meta"):
        network = instantiate(compose([f"backbone={backbone}"]).backbone)
        features = network(torch.empty(2, 3, 64, 64))
    assert features.shape[:2] == (2, network.num_features)


def test_augmentation_and_logger_can_be_switched_off(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "augment=none", "augment.size=32", "logger=none", "trainer.max_epochs=1")
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize("forward", ["joint_per_view_statistics", "joint"])
def test_one_pass_trains_too(forward: str, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", f"method.forward={forward}", "method.erase=independent", "trainer.max_epochs=1")


def test_experiments_hold_the_published_settings() -> None:
    for method in ("eac", "ce"):
        for backbone, rate in (("resnet18", 2e-4), ("resnet50", 1e-4), ("resnet50_vggface2", 1e-4)):
            config = compose([f"experiment={method}_raf_db", f"backbone={backbone}"])
            assert config.optim.optimizer._target_ == "torch.optim.Adam"
            assert (config.optim.optimizer.lr, config.optim.optimizer.weight_decay) == (rate, 1e-4)
            assert config.optim.scheduler.gamma == 0.9
            assert (config.batch_size, config.trainer.max_epochs, config.augment.size) == (32, 60, 224)
            assert config.trainer.precision == "32-true" and config.protocol == "last5"
            assert OmegaConf.select(config, "method.lam") == (5.0 if method == "eac" else None)


def test_a_misspelt_key_is_named() -> None:
    with pytest.raises(HydraException, match="lamda"):
        compose(["method.lamda=5"])


def run_dir(*overrides: str) -> str:
    """The run folder that the command line would use."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = hydra_compose("train", overrides=list(overrides), return_hydra_config=True)
    return str(config.hydra.run.dir)


def test_run_folders_are_named_by_content() -> None:
    assert run_dir() == "outputs/demo/eac-tiny-symmetric0.3-lam5/seed0"
    ce = run_dir("experiment=ce_raf_db", "noise=pair", "noise.ratio=0.20", "seed=4")
    assert ce == "outputs/ce_raf_db/ce-resnet18-pair0.2/seed4"
    assert run_dir("data=raf_db").startswith("outputs/raf_db/eac-resnet18-none-lam5/")


def test_other_keys_are_appended_unless_they_cannot_change_a_result() -> None:
    folder = run_dir("optim.lr=0.1", "augment.size=32", "num_workers=2", "data.root=/a/b", "output_dir=out")
    assert folder == "out/demo/eac-tiny-symmetric0.3-lam5-augment.size@32-optim.lr@0.1/seed0"
    assert run_dir("backbone.weights=/some/where/face.pth").endswith("-backbone.weights@face.pth/seed0")


def test_long_names_end_in_a_hash_that_tells_them_apart() -> None:
    keys = ["mean=[0.5,0.5,0.5]", "std=[0.25,0.25,0.25]", "pixel_noise_probability=0.25", "erase_probability=0.75"]
    more = [f"augment.{key}" for key in keys]
    first, second = (run_dir(f"augment.pixel_noise_variance={variance}", *more) for variance in (25, 35))
    assert first != second
    assert first == run_dir("augment.pixel_noise_variance=25", *reversed(more))
    assert len(Path(first).parent.name) == len(Path(second).parent.name) == 120


def test_jobs_of_a_sweep_have_folders_of_their_own(overrides: list[str], tmp_path: Path) -> None:
    sweep = ["-m", *overrides, "trainer.max_epochs=1", "method=ce,eac", "seed=0,1", f"output_dir={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "fer.train", *sweep]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = [result.parent for result in (tmp_path / "out").glob("folder/*/*/result.json")]
    assert sorted((folder.parent.name.partition("-")[0], folder.name) for folder in results) == [
        ("ce", "seed0"), ("ce", "seed1"), ("eac", "seed0"), ("eac", "seed1"),
    ]  # fmt: skip
    table = markdown([tmp_path / "out"]).splitlines()
    assert len(table) == 4 and all("| 2 |" in line and "±" in line for line in table[2:])
