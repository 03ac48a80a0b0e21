"""The end of a rank and of the agent of several ranks: results, errors and files in the run folder."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api

from fer.config.settings import Settings, read_settings
from fer.errors import ConfigError, RunFailed, TrainingError
from fer.launch.workers import in_one_line, is_first_rank, ranks_exist, train_in_workers, train_rank
from fer.runs.run_folder import RunFolder
from fer.training import experiment

pytestmark = pytest.mark.measured

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def settings(devices: int = 1) -> Settings:
    node = {"_target_": "x"}
    return read_settings(
        {
            "trainer": {"accelerator": "cpu", "devices": devices, "num_nodes": 1}, "launch": {"max_restarts": 0},
            "seed": 0, "protocol": "last5", "batch_size": 2, "channels_last": False, "compile": False, "cache_dir": "x",
            "data": {"reader": node, "store_size": 8, "on_bad_image": "error"}, "method": node, "backbone": node,
            "augment": node, "noise": None,
        }
    )  # fmt: skip


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``ending(error)`` makes training raise it."""

    def end_with(error: BaseException) -> None:
        def train(*_: Any) -> None:
            raise error

        monkeypatch.setattr(experiment, "train", train)

    return end_with


# A rank


def test_errors_that_every_rank_meets_alike_are_returned(ending: Any, tmp_path: Path) -> None:
    error = ConfigError("method.lam is -1")
    ending(error)
    assert train_rank(settings(), tmp_path) is error
    assert not RunFolder(tmp_path).error_file.exists(), "who called decides"


def test_other_errors_are_left_in_the_folder(ending: Any, tmp_path: Path) -> None:
    ending(ZeroDivisionError("of all\n things"))
    with pytest.raises(ZeroDivisionError):
        train_rank(settings(), tmp_path)
    folder = RunFolder(tmp_path)
    assert folder.state == "failed" and folder.error() == "ZeroDivisionError: of all things"
    assert "Traceback (most recent call last)" in folder.error_file.read_text()


def test_a_full_disk_is_explained_where_no_other_rank_waits(ending: Any, tmp_path: Path) -> None:
    ending(OSError(errno.ENOSPC, "No space left on device"))
    outcome = train_rank(settings(), tmp_path)
    assert isinstance(outcome, TrainingError) and "No space left on device; make room" in str(outcome)
    with pytest.raises(OSError, match="No space left"):
        train_rank(settings(devices=2), tmp_path)
    ending(OSError(errno.ECONNRESET, "Connection reset"))
    with pytest.raises(OSError, match="Connection reset"):
        train_rank(settings(), tmp_path)


def test_ctrl_c_stays_what_it_is(monkeypatch: pytest.MonkeyPatch, ending: Any, tmp_path: Path) -> None:
    def stopped_by_lightning(*_: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904

    monkeypatch.setattr(experiment, "train", stopped_by_lightning)
    with pytest.raises(KeyboardInterrupt):
        train_rank(settings(), tmp_path)
    ending(SystemExit(143))
    with pytest.raises(SystemExit, match="143"):
        train_rank(settings(), tmp_path)
    assert not RunFolder(tmp_path).error_file.exists()


def test_a_finished_run_is_not_trained_again(ending: Any, tmp_path: Path) -> None:
    ending(AssertionError("trained"))
    folder = RunFolder(tmp_path)
    folder.write_result({"metrics": {}})
    assert train_rank(settings(), tmp_path) == {"metrics": {}}


@pytest.mark.parametrize(
    ("environment", "exist", "is_first"),
    [
        ({}, False, True),
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "0"}, True, True),
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "1"}, True, False),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, True, True),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, True, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "1"}, False, True),
    ],
)
def test_ranks_are_known_by_what_has_started_them(
    environment: dict[str, str], exist: bool, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (ranks_exist(), is_first_rank()) == (exist, is_first)


def test_later_ranks_neither_lock_nor_skip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(experiment, "train", lambda *_: None)
    RunFolder(tmp_path).write_result({})
    assert train_rank(settings(devices=2), tmp_path) is None
    assert not RunFolder(tmp_path).lock_file.exists()


def test_an_error_in_one_line() -> None:
    assert in_one_line(ValueError("a\n  b\tc")) == "ValueError: a b c"


# The agent: real ones are tested with real ranks; here, what becomes of each of their ends


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``agent(outcome)`` makes the elastic agent return or raise it, after it has taken the signals as it does."""

    def end_with(outcome: Any) -> None:
        def launch(*_: Any) -> dict[int, Any]:
            for number in HANDLED:
                signal.signal(number, signal.SIG_IGN)
            if isinstance(outcome, BaseException) and not isinstance(outcome, ConfigError):
                raise outcome
            return {0: outcome, 1: None}

        monkeypatch.setattr(api, "elastic_launch", lambda *_: launch)

    return end_with


@pytest.fixture(autouse=True)
def same_handlers() -> Any:
    before = [signal.getsignal(number) for number in HANDLED]
    yield
    assert [signal.getsignal(number) for number in HANDLED] == before


def failed(rank: int, exit_status: int) -> ChildFailedError:
    failure = ProcessFailure(local_rank=rank, pid=1, exitcode=exit_status, error_file="none")
    return ChildFailedError("fer", {rank: failure})


def test_the_result_is_the_first_rank_s(agent: Any, tmp_path: Path) -> None:
    agent({"metrics": {}})
    assert train_in_workers(settings(devices=2), RunFolder(tmp_path)) == {"metrics": {}}
    agent(ConfigError("method.lam is -1"))
    with pytest.raises(ConfigError, match="lam is -1"):
        train_in_workers(settings(devices=2), RunFolder(tmp_path))


def test_the_rank_that_failed_first_is_named(agent: Any, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_error("RuntimeError: connection closed by peer", "")
    agent(failed(rank=1, exit_status=-signal.SIGKILL))
    with pytest.raises(RunFailed, match="rank 1 ended with SIGKILL"):
        train_in_workers(settings(devices=2), folder)
    folder.forget_error()
    agent(failed(rank=0, exit_status=3))
    with pytest.raises(RunFailed, match="rank 0 ended with exit status 3"):
        train_in_workers(settings(devices=2), folder)
    folder.forget_error()
    folder.add_error("ZeroDivisionError: of all things", "its traceback")
    with pytest.raises(RunFailed, match="ZeroDivisionError: of all things"):
        train_in_workers(settings(devices=2), folder)


def test_signals_end_a_command_and_not_a_job(agent: Any, tmp_path: Path) -> None:
    agent(SignalException("stopped", signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train_in_workers(settings(devices=2), RunFolder(tmp_path))
    agent(SignalException("stopped", signal.SIGTERM))
    with pytest.raises(SystemExit, match="143"):
        train_in_workers(settings(devices=2), RunFolder(tmp_path))
    assert RunFolder(tmp_path).state == "new"
