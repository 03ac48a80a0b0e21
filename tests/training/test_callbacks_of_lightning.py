"""Callbacks of Lightning work from the configuration, or are refused by name."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
import torch
from support.interruptions import PowerCut, assert_same_outcome, cut_in
from support.project import Train

from fer.errors import ConfigError
from fer.runs.run_folder import RunFolder
from fer.training.checkpoints import WholeCheckpoints
from fer.training.finished_run import trained

EVERY_EPOCH = ["callbacks=[none,model_checkpoint]", "callbacks.model_checkpoint.every_n_epochs=1"]


def kept(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "checkpoints" / "model_checkpoint").glob("*"))


def test_model_checkpoint_keeps_epochs_beside_the_runs_own(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", *EVERY_EPOCH)
    assert kept(tmp_path / "run") == ["epoch=000.ckpt", "epoch=001.ckpt", "epoch=002.ckpt"]
    last, same = (
        torch.load(tmp_path / "run" / "checkpoints" / name, weights_only=True)["state_dict"]
        for name in ("last.ckpt", "model_checkpoint/epoch=002.ckpt")
    )
    assert all(torch.equal(last[key], same[key]) for key in last)
    assert trained(RunFolder(tmp_path / "run")) is not None, "commands open it"
    train(tmp_path / "without", "callbacks=none")
    assert_same_outcome(tmp_path / "run", tmp_path / "without")


def test_model_checkpoint_keeps_the_best_held_out_epoch(train: Train, tmp_path: Path) -> None:
    best = ["protocol=holdout", "holdout_share=0.3", "callbacks.model_checkpoint.monitor=holdout/acc"]
    train(tmp_path / "run", *EVERY_EPOCH, *best, "callbacks.model_checkpoint.save_top_k=1")
    accuracy = [record["holdout/acc"] for record in RunFolder(tmp_path / "run").records()]
    assert kept(tmp_path / "run") == [f"epoch={accuracy.index(max(accuracy)):03d}.ckpt"]


def test_model_checkpoint_goes_on_in_a_resumed_run(train: Train, tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        train(tmp_path / "run", *EVERY_EPOCH, *cut_in(1))
    train(tmp_path / "run", *EVERY_EPOCH)
    assert kept(tmp_path / "run") == ["epoch=000.ckpt", "epoch=001.ckpt", "epoch=002.ckpt"]


def test_a_checkpoint_of_a_callback_that_cannot_be_written_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    run = RunFolder(tmp_path / "file")
    checkpoints = WholeCheckpoints(run)
    for path in (tmp_path / "file" / "below" / "epoch.ckpt", run.last_checkpoint):
        checkpoints.save_checkpoint({}, path)
        assert checkpoints.error is not None, "which the run's own callbacks look for"
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"{tmp_path}/file/below/epoch.ckpt cannot be written (Not a directory), and the run goes on"


def test_learning_rates_and_device_reach_the_loggers(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "callbacks=[none,lr_monitor,device_stats]", "logger=csv", "trainer.log_every_n_steps=1")
    with (tmp_path / "run" / "csv" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rates = [float(row["lr-Adam"]) for row in rows if row.get("lr-Adam")]
    assert len(rates) == 3 and rates == sorted(rates, reverse=True)
    records = [record["lr"] for record in RunFolder(tmp_path / "run").records()]
    assert rates == pytest.approx(records)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["+callbacks.mine._target_=collections.Counter"], "callbacks.mine is Counter, which is no callback"),
        (
            ["callbacks=[none,model_checkpoint]", "callbacks.model_checkpoint.monitor=holdout/acc"],
            "callbacks.model_checkpoint.monitor is holdout/acc, which only protocol=holdout has",
        ),
        (
            ["callbacks=[none,model_checkpoint]", "callbacks.model_checkpoint.monitor=test/acc"],
            "would select on the test set",
        ),
        (["callbacks=[none,model_checkpoint]", "callbacks.model_checkpoint.save_top_k=-5"], "save_top_k"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    more: list[str], said: str, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ConfigError, match=said):
        train(tmp_path / "run", *more)
    assert not any("epoch 1/" in record.message for record in caplog.records)
