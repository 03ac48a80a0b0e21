"""Bad input ends in one clear message, before training, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.errors import HydraException
from support.project import PROJECT, Train
from torch import nn

from fer.cli import data as data_cli
from fer.cli import train as train_cli
from fer.config.arguments import options_first
from fer.errors import UserError


def reading(**_: object) -> None:
    """A reader of data that must not be called."""
    pytest.fail("data was read")


def backbone_without_width(**_: object) -> nn.Module:
    return nn.Conv2d(3, 8, 3)


def backbone_without_map(**_: object) -> nn.Module:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone.num_features = 8  # type: ignore[assignment]
    return backbone


# Without data: these are told before any is read.
VALUES = [
    ("noise.ratio=-0.1", "noise.ratio"),
    ("noise.ratio=1", "noise.ratio"),
    ("noise.ratio=nan", "noise.ratio is nan"),
    ("noise.ratio=half", "noise.ratio is 'half'; it must be a finite number"),
    ("noise.seed=-1", "noise.seed"),
    ("noise=none noise.ratio=0.3", "noise.ratio=0.3 needs a kind of noise"),
    ("noise=file", "noise.path.*give it as noise.path="),
    ("method.lam=nan", "method.lam is nan"),
    ("method.lam=inf", "method.lam is inf"),
    ("method.lam=-1", "method.lam is -1"),
    ("method.lam=much", "method.lam is 'much'; it must be a number of 0 or more"),
    ("method.lam=null", "method.lam is None"),
    ("method.erase=both", "method.erase is 'both'; it must be shared, independent, none or released"),
    ("method.forward=three_pass", "method.forward.*two_pass"),
    ("method=co_teaching method.noise_ratio=null", "method.noise_ratio is None; give the assumed share"),
    ("method=pdls method.alpha=2", "method.alpha is 2"),
    ("method=sce method.beta=nan", "method.beta is nan"),
    ("protocol=best", "protocol.*last5, holdout"),
    ("protocol=holdout holdout_share=0.9", "holdout_share is 0.9"),
    ("protocol=holdout holdout_share=0", "holdout_share is 0"),
    ("holdout_share=some", "holdout_share is 'some'"),
    ("batch_size=0", "batch_size"),
    ("batch_size=1.5", "batch_size is 1.5"),
    ("~batch_size", "missing required key batch_size"),
    ("seed=-1", "seed"),
    ("seed=one", "seed"),
    ("num_workers=-1", "num_workers is -1"),
    ("compile=fast", "compile is 'fast'; it must be true, false or one of default, reduce-overhead"),
    ("channels_last=maybe", "channels_last is 'maybe'; it must be true or false"),
    ("output_dir=", "output_dir is ''"),
    ("optim.lr=-1", "optim: Invalid learning rate: -1"),
    ("optim.lr=fast", "optim.optimizer.lr is 'fast'"),
    ("optim.gamma=-0.9", "learning rate of epoch 2"),
    ("optim.optimizer._target_=torch.optim.NoSuch", "optim.optimizer.*NoSuch"),
    ("optim.optimizer._target_=os.system", "optim.optimizer.*os.system.*blocklisted"),
    ("+optim.optimizer.momentum=0.9", "Adam does not take optim.optimizer.momentum"),
    ("trainer.max_epochs=0", "max_epochs"),
    ("+trainer.max_epoch=3", "trainer.max_epoch; perhaps max_epochs"),
    ("trainer.devices=0", "trainer.devices"),
    ("trainer.devices=[]", "trainer.devices"),
    ("trainer.num_nodes=0", "trainer.num_nodes"),
    ("trainer.num_nodes=2", "trainer.num_nodes.*torchrun"),
    ("trainer.devices=3", "batch_size=16.*multiple of 3"),
    ("trainer.accelerator=abacus", "trainer.accelerator is 'abacus'; choose one of auto, cpu"),
    ("trainer.precision=8", "trainer.precision is 8; it must be .*bf16-mixed"),
    ("trainer.deterministic=perhaps", "trainer.deterministic is 'perhaps'; it must be .*warn"),
    ("launch.max_restarts=-1", "launch.max_restarts"),
    ("augment.size=2", "augment.size"),
    ("augment.size=big", "augment.size is 'big'; it must be a whole number"),
    ("augment.erase_area=[0.5,0.1]", "augment.erase_area"),
    ("augment.erase_area=[0.5,wide]", "augment.erase_area.*a list of 2, a number above 0, at most 1 each"),
    ("augment.pixel_noise_probability=1.5", "augment.pixel_noise_probability"),
    ("train_samples=0", "train_samples is 0"),
    ("sampling=equal", "sampling is .equal.; it must be .uniform., .balanced. or .progressive."),
    ("method=ce method.class_weights=inverse", "method.class_weights is .inverse.; it must be balanced or effective"),
    ("data.store_size=0", "data.store_size is 0"),
    ("backbone.width=4", "backbone.width"),
    ("backbone.width=wide", "backbone.width is 'wide'"),
    ("backbone.weights=nowhere.pth", "nowhere.pth"),
    ("backbone._target_=test_errors.backbone_without_width", "Conv2d, has no attribute num_features"),
    ("backbone._target_=test_errors.backbone_without_map", r"Sequential, makes \(1, 8\).*feature map \(1, 8, h, w\)"),
    ("backbone._target_=nowhere.Backbone", "backbone: Error locating target 'nowhere.Backbone'"),
    ("callbacks.pictures=5", "callbacks.pictures is 5"),
    ("+callbacks.mine._target_=fer.Nowhere", "callbacks.mine.*fer.Nowhere"),
    ("~trainer.max_epochs", "missing required key trainer.max_epochs"),
    ("launch=1", "launch is 1; it must be a section"),
    ("++optim.optimizer=adam", "optim.optimizer is 'adam'; it must be a section"),
    ("unnamed_keys=seed", "unnamed_keys is 'seed'; it must be a list"),
    ("noise=0.3", "Hydra cannot apply.*noise=0.3"),
    ("~augment.mean.0", "Hydra cannot apply.*augment.mean.0"),
    ("+method.lambda=5", "EAC does not take method.lambda; perhaps lam"),
]
DATA = [
    ("train_samples=1000000", "train_samples"),
    ("data.on_bad_image=ignore", "on_bad_image"),
    ("data.root=nowhere", "nowhere"),
    ("~data.reader", "missing required key data.reader"),
    ("noise=asymmetric", "noise.map: .* has no class surprise, but bar, disc, line"),
    ("method=pdls", "method.prior is for .*the data has bar, disc, line"),
    ("cache_dir=/dev/null/cache", "/dev/null/cache.*choose another with cache_dir=FOLDER"),
]


@pytest.mark.parametrize(("override", "message"), VALUES)
def test_values_that_cannot_be_run_are_named_before_data_is_read(
    override: str, message: str, train: Train, tmp_path: Path
) -> None:
    refuses(train, tmp_path, [*override.split(), "data.reader._target_=test_errors.reading"], message)


@pytest.mark.parametrize(("override", "message"), DATA)
def test_values_that_do_not_fit_the_data_are_named(override: str, message: str, train: Train, tmp_path: Path) -> None:
    refuses(train, tmp_path, override.split(), message)


def refuses(train: Train, folder: Path, overrides: list[str], message: str) -> None:
    top = folder / "out"
    with pytest.raises(UserError, match=message):
        train(top / "group" / "run", f"output_dir={top}", *overrides)
    assert not (top / "group").exists()


@pytest.mark.parametrize(
    ("devices", "there", "message"),
    [
        (
            "trainer.accelerator=gpu",
            0,
            "trainer.accelerator=gpu trainer.devices=1: torch finds no GPU here; use auto or cpu",
        ),
        ("trainer.accelerator=auto trainer.devices=2", 0, "no GPU here; trainer.accelerator=cpu trains on so many"),
        ("trainer.accelerator=gpu trainer.devices=8", 0, "no GPU here"),
        ("trainer.accelerator=gpu trainer.devices=8", 2, "trainer.devices=8, but this machine has 2 GPUs"),
        ("trainer.accelerator=auto trainer.devices=2", 1, "trainer.devices=2, but this machine has 1 GPU$"),
        ("trainer.accelerator=gpu trainer.devices=[0,3]", 2, r"trainer.devices=\[0, 3\]"),
    ],
)
def test_devices_that_are_not_there_are_told_before_workers_start(
    devices: str, there: int, message: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    refuses(train, tmp_path, devices.split(), message)


def test_foreign_files_in_a_refused_folder_are_kept(train: Train, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError):
        train(tmp_path, "method.lam=-1")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("method.lamb=3", r"there is no key method.lamb \(did you mean method.lam\?\)"),
        ("metod=ce", r"no key metod \(did you mean method\?\)"),
        ("backbon.width=9", r"did you mean backbone.width\?"),
        ("backbone=resnet18 backbone.stm=small", r"did you mean backbone.stem\?"),
        ("lam=3", r"did you mean method.lam\?"),
        ("trainer.nosuch=1", "no key trainer.nosuch; --cfg job"),
        ("~trainer.nosuch", "no key trainer.nosuch"),
        ("~backbone.weights", "backbone.weights is null"),
        ("method=dividmix", r"no method=dividmix \(did you mean dividemix\?\); choose one of ad_corre, ce"),
        ("hydra/launcher=nosuch", "no hydra/launcher=nosuch; choose one of .*gpus"),
        ("method=null", "a config group needs the name of one of its options"),
        ("method.lam=[1,2", r"cannot read 'method.lam=\[1,2'.*close every quote and bracket"),
        ("method.lam='5", "cannot read"),
        ("method.lam", "cannot read 'method.lam': give KEY=VALUE"),
        ("=5", "'=5' names no key"),
        ("seed=${nosuch}", "seed.*nosuch"),
        ("method.lam=1,2", "Ambiguous value.*--multirun"),
        ("+seed=3", "already at 'seed'"),
        ("data=folder", "data.root.*give it as data.root="),
        ("noise.ratio=0.3 output_dir=/dev/null/x", "cannot write to /dev/null/x.*output_dir="),
        ("-m method=ce,nosuch", "no method=nosuch"),
        ("-m method.lamb=1,2", r"did you mean method.lam\?"),
        ("-m seed=0,1 output_dir=/dev/null/x", "cannot write to /dev/null/x"),
    ],
)
def test_overrides_are_answered_in_one_line_and_leave_nothing(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fer-train", *command.split()])
    with pytest.raises(SystemExit) as end:
        train_cli.main()
    said = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert re.search(message, said) and "\n" not in said
    assert not list(tmp_path.iterdir())


def test_a_traceback_is_shown_to_who_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["train", "metod=ce"])
    with pytest.raises(HydraException):
        train_cli.main()


def test_fer_data_explains_as_the_others_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_cli.main(["check", "data.rot=x"]) == 2
    assert "did you mean data.root?" in capsys.readouterr().err


def test_command_line_says_what_is_wrong_in_one_message(overrides: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fer.cli.train", *overrides, "data.root=nowhere", f"output_dir={tmp_path / 'out'}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_options_may_stand_between_overrides() -> None:
    assert options_first(["data=demo", "-m", "method=ce,eac"]) == ["-m", "data=demo", "method=ce,eac"]
    assert options_first(["a=1", "--cfg", "job", "b=-2"]) == ["--cfg", "job", "a=1", "b=-2"]
    assert options_first(["--info", "a=1", "-i", "all"]) == ["--info", "-i", "all", "a=1"]
    done = subprocess.run(
        [sys.executable, "-m", "fer.cli.train", "method=ce", "--cfg", "job", "seed=3"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "seed: 3" in done.stdout and "fer.methods.ce" in done.stdout
