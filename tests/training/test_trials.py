"""Trainer keys that would be ignored or would spoil a result are refused, and a trial never has a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.project import CHOICES, Train

from fer.config.compose import compose
from fer.config.trainer_keys import keys_of_a_trial
from fer.errors import ConfigError
from fer.launch import run_job
from fer.runs.run_folder import RunFolder


@pytest.mark.parametrize(
    "key",
    ["strategy=ddp", "num_sanity_val_steps=2", "logger=true", "plugins=[]", "enable_checkpointing=true",
     "default_root_dir=x", "use_distributed_sampler=true", "enable_model_summary=true"],
)  # fmt: skip
def test_what_the_program_sets_is_refused_by_name(key: str, train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{key.partition('=')[0]} is set by the program"):
        train(tmp_path / "run", f"+trainer.{key}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "key", ["check_val_every_n_epoch=2", "val_check_interval=0.5", "limit_val_batches=0", "limit_test_batches=0"]
)
def test_no_epoch_is_left_without_its_evaluation(key: str, train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{key.partition('=')[0]} is"):
        train(tmp_path / "run", f"+trainer.{key}")


@pytest.mark.parametrize("protocol", ["last5", "holdout"])
def test_no_callback_selects_on_the_test_set(protocol: str, train: Train, tmp_path: Path) -> None:
    stop = ["+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.stop.mode=max"]
    with pytest.raises(ConfigError, match=r"callbacks\.stop\.monitor is test/acc, .* protocol=holdout .*holdout/acc"):
        train(tmp_path / "run", *stop, "+callbacks.stop.monitor=test/acc", f"protocol={protocol}")


@pytest.mark.parametrize(
    "key", ["fast_dev_run=true", "overfit_batches=1", "limit_train_batches=2", "limit_val_batches=1",
            "limit_test_batches=1", "max_steps=3", "max_time=00:01:00:00"],
)  # fmt: skip
@pytest.mark.parametrize("protocol", ["last5", "holdout"])
def test_a_trial_writes_debug_json_and_no_result(
    key: str, protocol: str, train: Train, tmp_path: Path, overrides: list[str]
) -> None:
    given = [f"+trainer.{key}", f"protocol={protocol}", "holdout_share=0.3", "callbacks=none"]
    found = train(tmp_path / "run", *given)
    folder = RunFolder(tmp_path / "run")
    assert found["trial"] == [key.partition("=")[0]]
    assert json.loads(folder.debug_file.read_text()) == json.loads(json.dumps(found))
    assert not folder.result_file.exists() and not folder.predictions_file.exists() and folder.state != "done"
    run_job.run(compose([*overrides, *given]), folder.path, CHOICES)  # the same command again is no error


@pytest.mark.parametrize(
    ("trainer", "keys"),
    [
        ({"limit_train_batches": 1}, ["limit_train_batches"]),
        ({"limit_train_batches": 1.0}, []),
        ({"limit_val_batches": 0.5}, ["limit_val_batches"]),
        ({"fast_dev_run": False, "max_steps": -1, "max_time": None, "overfit_batches": 0.0}, []),
        ({"fast_dev_run": 7}, ["fast_dev_run"]),
        ({"gradient_clip_val": 1.0, "accumulate_grad_batches": 2}, []),
    ],
)
def test_which_keys_make_a_trial(trainer: dict[str, Any], keys: list[str]) -> None:
    assert keys_of_a_trial(trainer) == keys
