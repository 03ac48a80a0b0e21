"""Settings mean what they say: whose learning rate is taken, what epochs are scaled to, where data lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.project import CHOICES, PROJECT, Train

from fer.config.compose import compose, scaled_epochs
from fer.config.settings import check_for_training
from fer.errors import ConfigError
from fer.launch import run_job
from fer.runs.run_folder import RunFolder

BACKBONES = sorted(path.stem for path in (PROJECT / "conf" / "backbone").glob("*.yaml"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adam_takes_the_rate_of_the_backbone(backbone: str) -> None:
    stated = OmegaConf.load(PROJECT / "conf" / "backbone" / f"{backbone}.yaml").optim.lr
    for data in ("raf_db", "demo"):
        assert compose([f"data={data}", f"backbone={backbone}", "optim=adam"]).optim.optimizer.lr == stated


@pytest.mark.parametrize("option", ["sgd", "adam_linear", "adam_plateaus", "adamw"])
@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_other_optimizers_have_their_own_rate(backbone: str, option: str) -> None:
    own = OmegaConf.load(PROJECT / "conf" / "optim" / f"{option}.yaml")
    for chosen in (["data=raf_db", f"backbone={backbone}"], ["data=demo", f"backbone={backbone}"]):
        made = compose([*chosen, f"optim={option}"]).optim
        numbers = [key for key in own if key not in ("optimizer", "scheduler", "warm_up")]
        assert {key: made[key] for key in numbers} == {key: own[key] for key in numbers}
        assert made.optimizer.lr == own.lr
        assert compose([*chosen, f"optim={option}", "optim.lr=0.125"]).optim.optimizer.lr == 0.125


@given(st.integers(0, 400), st.integers(1, 400), st.integers(1, 400), st.integers(0, 20))
def test_scaled_epochs_stay_within_the_training_and_above_the_least(
    epoch: int, of: int, max_epochs: int, least: int
) -> None:
    found = scaled_epochs(epoch, of, max_epochs, least)
    assert found == min(max_epochs, max(least, round(epoch * max_epochs / of))) or (
        abs(found - epoch * max_epochs / of) <= 0.5
    )
    assert min(least, max_epochs) <= found <= max_epochs


@pytest.mark.parametrize(
    ("method", "key", "epochs", "expected"),
    [
        ("dividemix", "warm_up", 15, 5), ("dividemix", "warm_up", 300, 10), ("dividemix", "ramp", 300, 16),
        ("co_teaching", "ramp", 10, 5), ("co_teaching", "ramp", 200, 10), ("man", "warm_up", 24, 5),
        ("man", "warm_up", 100, 10), ("scn", "relabel_from", 24, 6), ("scn", "relabel_from", 70, 9),
        ("gce", "truncate_from", 6, 5), ("gce", "truncate_from", 120, 40), ("dmue", "turn", 36, 10),
    ],
)  # fmt: skip
def test_short_trainings_keep_a_warm_up_and_published_ones_the_published(
    method: str, key: str, epochs: int, expected: int
) -> None:
    config = compose([f"method={method}", "noise=symmetric", f"trainer.max_epochs={epochs}"])
    assert config.method[key] == expected
    (line,) = (line for line in run_job.scaled_settings(config) if line.startswith(f"method.{key}="))
    assert line.startswith(f"method.{key}={expected} of {epochs} epochs (published: ")


def test_every_epoch_that_is_scaled_states_its_least() -> None:
    for path in (PROJECT / "conf").glob("**/*.yaml"):
        for line in path.read_text().splitlines():
            if "${epochs:" in line:
                assert line.partition("${epochs:")[2].count(",") == 2, f"{path.name}: {line}"


def test_a_relative_root_is_kept_as_absolute_and_the_data_is_found_from_elsewhere(
    train: Train, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    monkeypatch.chdir(shapes.parent)
    given = [*overrides, f"data.root={shapes.name}", "trainer.max_epochs=1", "callbacks=none", "logger=none"]
    run_job.run(compose(given), tmp_path / "run", CHOICES)
    config = RunFolder(tmp_path / "run").config()
    assert config["data"]["root"] == config["data"]["reader"]["root"] == str(shapes)
    for more in ([], [f"--data-root={shapes}"]):
        command = [sys.executable, "-m", "fer.cli.evaluate", str(tmp_path / "run"), f"--cache-dir={tmp_path}", *more]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={"PYTHONPATH": str(PROJECT), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "test/acc" in done.stdout and "differs" not in done.stdout


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fold=1"], "fold=1 needs protocol=folds"),
        (["protocol=folds", "fold=5"], "fold is 5; it must be one of 0 to 4"),
        (["protocol=folds", "folds=1"], "folds is 1; it must be a whole number of 2 or more"),
        (["protocol=folds", "evaluation.labels=any"], "evaluation.labels=any does not go with protocol=folds"),
    ],
)
def test_a_fold_that_is_not_there_or_changes_nothing_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_for_training(run_job.resolve(compose(given), CHOICES), ranks_exist=False)
