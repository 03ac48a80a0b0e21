"""Every logger gets metrics, settings, results and pictures, and none can cost a result."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from support.interruptions import PowerCut, assert_same_outcome, cut_in
from support.loggers import Other
from support.project import Train

from fer.config import known_targets
from fer.errors import ConfigError
from fer.runs.run_folder import RunFolder
from fer.training.loggers.guarded import GuardedLogger
from fer.training.loggers.make import make_loggers

needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
needs_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow")
SECONDS = 120


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def warnings(folder: Path) -> list[str]:
    return [line for line in (folder / "train.log").read_text().splitlines() if " WARNING " in line]


@pytest.fixture(autouse=True)
def seen() -> Iterator[list[tuple[str, Any]]]:
    Other.seen.clear()
    yield Other.seen
    Other.seen.clear()


OTHER = "+logger.mine._target_=support.loggers.Other"


def test_any_logger_of_lightning_gets_epochs_settings_and_the_result(
    train: Train, tmp_path: Path, seen: list[tuple[str, Any]]
) -> None:
    result = train(tmp_path / "run", "logger=none", OTHER)
    epochs = [value for what, value in seen if what == "metrics" and "test/acc" in value[0]]
    assert [step for _, step in epochs] == [0, 1, 2]
    assert [metrics["test/acc"] for metrics, _ in epochs] == [
        r["test/acc"] for r in RunFolder(tmp_path / "run").records()
    ]
    assert [value["method"]["_target_"] for what, value in seen if what == "settings"] == ["fer.methods.eac.EAC"]
    last = [value for what, value in seen if what == "metrics"][-1]
    assert last[0]["result/acc"] == result["metrics"]["test/acc"] and last[1] == 2
    assert seen[-1] == ("end", "success")
    assert not warnings(tmp_path / "run")


@pytest.mark.parametrize("broken", ["metrics", "settings", "end", "name"])
def test_a_logger_that_fails_is_left_out_and_costs_no_result(
    broken: str, train: Train, tmp_path: Path, seen: list[tuple[str, Any]]
) -> None:
    asks = "+callbacks.name._target_=support.loggers.AsksForTheName"
    train(tmp_path / "run", "logger=csv", OTHER, f"+logger.mine.broken={broken}", asks)
    train(tmp_path / "undisturbed", "logger=none")
    assert_same_outcome(tmp_path / "run", tmp_path / "undisturbed")
    (warning,) = warnings(tmp_path / "run")
    assert re.search(r"logger\.mine fails and is left out .* OSError: \[Errno 28\] No space left on device", warning)
    assert len([row for row in rows(tmp_path / "run") if row["test/acc"]]) == 3, "the others go on"


def test_a_training_that_is_cut_off_ends_its_loggers(train: Train, tmp_path: Path, seen: list[tuple[str, Any]]) -> None:
    with pytest.raises(PowerCut):
        train(tmp_path / "run", "logger=none", OTHER, *cut_in(1))
    assert seen[-1] == ("end", "failed")


def test_metrics_of_all_epochs_are_in_the_csv_of_a_resumed_run(train: Train, tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        train(tmp_path / "run", "logger=csv", *cut_in(1))
    train(tmp_path / "run", "logger=csv")
    epochs = [row for row in rows(tmp_path / "run") if row["test/acc"]]
    assert [row["epoch"] for row in epochs] == ["0", "1", "2"]
    records = RunFolder(tmp_path / "run").records()
    assert [float(row["test/acc"]) for row in epochs] == [record["test/acc"] for record in records]
    assert "data" in (tmp_path / "run" / "csv" / "hparams.yaml").read_text()


def test_several_loggers_at_once_have_their_files(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "logger=[csv,tensorboard]")
    assert rows(tmp_path / "run") and [*(tmp_path / "run" / "tensorboard").glob("events.*")]
    train(tmp_path / "many", "logger=many")
    assert rows(tmp_path / "many") and [*(tmp_path / "many" / "tensorboard").glob("events.*")]


def test_a_guarded_logger_looks_like_what_it_stands_for(tmp_path: Path) -> None:
    nodes = {
        "a": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger"},
        "b": {"_target_": "support.loggers.Other"},
    }
    board, other = make_loggers(nodes, RunFolder(tmp_path), "label")
    assert isinstance(board, TensorBoardLogger) and not isinstance(other, TensorBoardLogger)
    assert isinstance(board, GuardedLogger) and type(board) is GuardedLogger
    assert Path(board.log_dir or "") == tmp_path / "tensorboard"
    assert Path(board.experiment.log_dir) == tmp_path / "tensorboard", "of the logger itself"
    assert other.broken is None
    other._way.logger.broken = "metrics"
    other.log_metrics({"a": 1.0}, 0)
    assert other.name is None and not hasattr(other, "experiment")
    board._way.logger.log_metrics = None
    board.log_metrics({"a": 1.0}, 0)
    assert isinstance(board.experiment, DummyExperiment), "whoever writes to it still can"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["+logger.mine._target_=collections.Counter"], "logger.mine is Counter, which is no logger of Lightning"),
        (["+logger.mine._target_=nowhere.Logger"], "logger.mine: .*nowhere"),
        (["+logger.csv=3"], "logger.csv is 3"),
        (["+logger.csv._target_=lightning.pytorch.loggers.CSVLogger", "+logger.csv.flush=1"], "logger.csv.*flush"),
    ],
)
def test_what_is_no_logger_is_named_before_training(more: list[str], said: str, train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        train(tmp_path / "run", "logger=none", *more)


def test_a_missing_package_is_named_with_its_extra(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(
        ConfigError, match=r"logger\.wandb needs a package .* pip install \"noisy-label-fer\[loggers\]\""
    ):
        train(tmp_path / "run", "logger=wandb")


def test_loggers_of_the_configuration_are_known_to_run_folders() -> None:
    known = known_targets._known("logger")
    names = {"TensorBoardLogger", "CSVLogger", "WandbLogger", "MLFlowLogger"}
    assert known >= {f"lightning.pytorch.loggers.{name}" for name in names}


@needs_wandb
def test_wandb_offline_keeps_curves_pictures_and_result_in_one_run(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # else the logger sets it for the whole process
    with pytest.raises(PowerCut):
        train(tmp_path / "run", "logger=wandb", "logger.wandb.offline=true", *cut_in(1))
    result = train(tmp_path / "run", "logger=wandb", "logger.wandb.offline=true")
    runs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    identity = json.loads((tmp_path / "run" / "loggers.json").read_text())["wandb"]
    assert runs and all(run.name.endswith(identity) for run in runs), "the resumed run goes on in the first"
    kept = b"".join(file.read_bytes() for run in runs for file in run.glob("*.wandb"))
    for text in ("test/macro_acc", "result/acc", str(result["metrics"]["test/acc"]), "fer.methods.eac.EAC"):
        assert text.encode() in kept, text
    pictures = [file.relative_to(run).as_posix() for run in runs for file in run.rglob("*.png")]
    for name in ("views", "confusion", "cam"):
        assert any(f"media/images/{name}" in picture for picture in pictures), pictures
    assert not warnings(tmp_path / "run")
    import wandb

    assert wandb.run is None, "the next run of this process gets its own"


@needs_wandb
def test_wandb_without_a_login_costs_no_result(overrides: list[str], tmp_path: Path) -> None:
    """In a process of its own, since wandb remembers the first settings of a process."""
    own = {"NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "fer.cli.train", *overrides, "logger=wandb", f"hydra.run.dir={folder}"]
    done = subprocess.run(command, env=environment | own, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert [bool(re.search(r"logger\.wandb fails .* left out", line)) for line in warnings(folder)] == [True]
    assert RunFolder(folder).state == "done"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real MLflow server on the loopback interface."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (
        (folder / "log").open("wb") as said,
        subprocess.Popen(command, stdout=said, stderr=said, cwd=folder) as process,
    ):
        address, ends = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
        try:
            while not _answers(f"{address}/health"):
                assert process.poll() is None and time.monotonic() < ends, (folder / "log").read_text()
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def assert_in_mlflow(uri: str, folder: Path, result: Mapping[str, Any]) -> None:
    """The run in a store of MLflow is that of the folder: all epochs once, settings, result, pictures, files."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    identity = json.loads((folder / "loggers.json").read_text())["mlflow"]
    run = client.get_run(identity)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{folder.parent.name}/{folder.name}"
    history = {metric.step: metric.value for metric in client.get_metric_history(identity, "test/acc")}
    assert history == {record["epoch"]: record["test/acc"] for record in RunFolder(folder).records()}
    assert run.data.metrics["result/acc"] == result["metrics"]["test/acc"]
    assert run.data.params["method._target_"] == "fer.methods.eac.EAC"
    files = {file.path for file in client.list_artifacts(identity)}
    assert files >= {"config.yaml", "stamp.json", "views", "confusion", "cam"}


@needs_mlflow
def test_an_mlflow_server_gets_a_run_that_is_cut_off_and_resumed(
    server: str, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ["logger=mlflow", f"logger.mlflow.tracking_uri={server}"]
    with pytest.raises(PowerCut):
        train(tmp_path / "run", *overrides, *cut_in(1))
    result = train(tmp_path / "run", *overrides, "num_workers=1")
    assert_in_mlflow(server, tmp_path / "run", result)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "fails" in record.message]


@needs_mlflow
@pytest.mark.parametrize("scheme", ["sqlite:///{}/mlflow.db", "file:{}/mlruns"])
def test_mlflow_in_a_database_or_a_folder(scheme: str, train: Train, tmp_path: Path) -> None:
    uri = scheme.format(tmp_path)
    result = train(tmp_path / "run", "logger=mlflow", f"logger.mlflow.tracking_uri={uri}")
    assert_in_mlflow(uri, tmp_path / "run", result)
    assert not Path("mlruns").exists(), "nothing lands in the working folder"


@needs_mlflow
def test_an_mlflow_server_that_does_not_answer_costs_no_result(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(tmp_path / "run", "logger=[mlflow,csv]", "logger.mlflow.tracking_uri=http://127.0.0.1:9")
    assert RunFolder(tmp_path / "run").state == "done"
    assert [bool(re.search(r"logger\.mlflow fails .* left out", line)) for line in warnings(tmp_path / "run")] == [True]
    assert len([row for row in rows(tmp_path / "run") if row["test/acc"]]) == 3


def test_a_csv_file_that_cannot_be_written_costs_no_result(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    train(tmp_path / "run", "logger=csv", f"+logger.csv.save_dir={tmp_path / 'file' / 'below'}")
    assert RunFolder(tmp_path / "run").state == "done"
    assert len(warnings(tmp_path / "run")) == 1


def test_csv_is_what_lightning_makes_it(tmp_path: Path) -> None:
    (logger,) = make_loggers({"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger"}}, RunFolder(tmp_path), "label")
    assert isinstance(logger, CSVLogger) and Path(logger.log_dir or "") == tmp_path / "csv"
