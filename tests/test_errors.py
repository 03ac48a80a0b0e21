"""Bad input ends in one clear message, before training, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, Train

from fer.errors import UserError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("noise.ratio=-0.1", "noise.ratio"),
        ("noise.ratio=1", "noise.ratio"),
        ("method.lam=nan", "method.lam"),
        ("method.erase=both", "method.erase.*shared, independent"),
        ("method.forward=three_pass", "method.forward.*two_pass"),
        ("protocol=best", "protocol.*last5, holdout"),
        ("protocol=holdout holdout_share=0.9", "holdout_share"),
        ("batch_size=0", "batch_size"),
        ("seed=-1", "seed"),
        ("seed=one", "seed"),
        ("trainer.max_epochs=0", "max_epochs"),
        ("trainer.devices=0", "trainer.devices"),
        ("trainer.devices=[]", "trainer.devices"),
        ("trainer.num_nodes=0", "trainer.num_nodes"),
        ("trainer.num_nodes=2", "trainer.num_nodes.*torchrun"),
        ("trainer.devices=3", "batch_size=16.*multiple of 3"),
        ("launch.max_restarts=-1", "launch.max_restarts"),
        ("augment.size=2", "augment.size"),
        ("augment.erase_area=[0.5,0.1]", "augment.erase_area"),
        ("augment.pixel_noise_probability=1.5", "augment.pixel_noise_probability"),
        ("train_samples=1000000", "train_samples"),
        ("data.on_bad_image=ignore", "on_bad_image"),
        ("backbone.width=4", "backbone.width"),
        ("backbone.weights=nowhere.pth", "nowhere.pth"),
        ("data.root=nowhere", "nowhere"),
        ("+method.lambda=5", "lambda"),
        ("optim.optimizer._target_=torch.optim.NoSuch", "NoSuch"),
        ("precision_of_nothing=1", "precision_of_nothing"),
        ("~batch_size", "batch_size is missing"),
        ("~trainer.max_epochs", "trainer.max_epochs is missing"),
        ("~data.reader", "data.reader is missing"),
        ("launch=1", "launch is 1, but must be a section"),
        ("++optim.optimizer=adam", "optim.optimizer is 'adam', but must be a section"),
        ("unnamed_keys=seed", "unnamed_keys is 'seed', but must be a list"),
        ("+callbacks.extra=1", "1 stands where a section with a _target_ should"),
        ("noise=0.3", "Hydra cannot apply.*noise=0.3"),
        ("~augment.mean.0", "Hydra cannot apply.*augment.mean.0"),
    ],
)
def test_values_that_cannot_be_run_are_named(override: str, message: str, train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "run"
    with pytest.raises(Exception, match=message) as caught:
        train(folder, *override.split())
    assert isinstance(caught.value, UserError) or "precision_of_nothing" in override
    assert not folder.exists()


def test_foreign_files_in_a_refused_folder_are_kept(train: Train, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError):
        train(tmp_path, "method.lam=-1")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_command_line_says_what_is_wrong_in_one_message(overrides: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fer.train", *overrides, "data.root=nowhere", f"output_dir={tmp_path / 'out'}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("**/*"))
