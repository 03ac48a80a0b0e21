"""Whenever a run is killed, its folder can be read, and the same command ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.interruptions import PowerCut, assert_same_outcome, cut_in
from support.moments import Moments, ended
from support.project import Train

from fer.reports.collect import collect
from fer.runs.run_folder import RunFolder
from fer.training.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow

HOLDOUT = "protocol=holdout"  # it writes one checkpoint more


@pytest.fixture
def in_child(train: Train, tmp_path: Path) -> Callable[..., int]:
    """``in_child(before, folder, *overrides)`` trains in a fork of this process and returns its wait status."""

    def start(before: Callable[[], object], folder: Path, *more: str) -> int:
        child = os.fork()
        if child == 0:
            try:
                silence = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silence, 1)
                os.dup2(silence, 2)
                before()
                train(folder, *more)
                os._exit(0)
            finally:
                os._exit(1)
        return child

    return start


def assert_readable(folder: Path) -> None:
    run = RunFolder(folder)
    if run.state == "new":
        return
    if run.state == "done":
        assert run.result()["metrics"]
    assert run.config()["seed"] == 0
    epochs = [record["epoch"] for record in run.records()]
    assert epochs == [*range(len(epochs))]
    if run.last_checkpoint.exists():
        assert read_checkpoint(run.last_checkpoint)["epoch"] <= len(epochs) - 1
    if run.stamp_file.exists():
        assert run.stamp()["devices"] == 1
    assert collect([folder])


@pytest.fixture
def undisturbed(in_child: Callable[..., int], tmp_path: Path) -> Path:
    folder = tmp_path / "undisturbed"
    assert ended(in_child(lambda: None, folder, HOLDOUT)) == 0
    return folder


def test_killed_before_any_change_of_a_file(in_child: Callable[..., int], undisturbed: Path, tmp_path: Path) -> None:
    """One run for every file operation, killed there and resumed."""
    diary = tmp_path / "moments.txt"

    def write_down() -> None:
        Moments(tmp_path / "run", lambda _, what: diary.open("a").write(f"{what}\n"))

    assert ended(in_child(write_down, tmp_path / "run", HOLDOUT)) == 0
    moments = diary.read_text().splitlines()
    kinds = Counter(what for what in moments)
    print(f"{len(moments)} moments", dict(kinds))
    assert len(moments) >= 50
    for number, what in enumerate(moments, start=1):
        folder = tmp_path / f"killed{number}"

        def kill(count: int, _: str, last: int = number) -> None:
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

        child = in_child(lambda: Moments(folder, kill), folder, HOLDOUT)  # noqa: B023, used at once
        assert os.WTERMSIG(ended(child)) == signal.SIGKILL, what
        assert_readable(folder)
        assert ended(in_child(lambda: None, folder, HOLDOUT)) == 0, what
        assert_same_outcome(folder, undisturbed)
        assert [file.name for file in folder.rglob(".*")] == [".lock"]
        shutil.rmtree(folder)


def limit_files(size: int) -> None:
    """Let the system kill this process at the byte with which any file would grow beyond ``size``."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("begun", ["before the first epoch", "after the first epoch", "after the last epoch"])
def test_killed_in_the_middle_of_a_write(
    begun: str, in_child: Callable[..., int], undisturbed: Path, train: Train, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    if begun == "after the first epoch":
        with pytest.raises(PowerCut):
            train(start, HOLDOUT, *cut_in(1))
    elif begun == "after the last epoch":
        shutil.copytree(undisturbed, start)
        (start / "result.json").unlink()
    else:
        start.mkdir()
    sizes = {file.stat().st_size for file in undisturbed.rglob("*") if file.is_file()}
    kills = 0
    for limit in sorted(size * half // 2 for size in sizes for half in (1, 2)):
        folder = tmp_path / f"limit{limit}"
        shutil.copytree(start, folder)
        status = ended(in_child(lambda: limit_files(limit - 1), folder, HOLDOUT))  # noqa: B023, used at once
        if status != 0:
            assert os.WTERMSIG(status) == signal.SIGXFSZ, limit
            kills += 1
            assert_readable(folder)
            assert ended(in_child(lambda: None, folder, HOLDOUT)) == 0, limit
        assert_same_outcome(folder, undisturbed)
        assert [file.name for file in folder.rglob(".*")] == [".lock"]
        shutil.rmtree(folder)
    print(f"{kills} kills")
    assert kills >= 10


def test_killed_fifty_times_at_random_moments(in_child: Callable[..., int], undisturbed: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    started = time.monotonic()
    assert ended(in_child(lambda: None, tmp_path / "timed", HOLDOUT)) == 0
    whole = time.monotonic() - started
    kills, folder = 0, tmp_path / "run"
    epochs: Counter[int] = Counter()
    while kills < 50:
        child = in_child(lambda: None, folder, HOLDOUT)
        time.sleep(moments.uniform(0.1, 1.0) * whole)
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(ended(child)):
            kills += 1
            if RunFolder(folder).state != "done":
                assert_readable(folder)
                epochs[len(RunFolder(folder).records())] += 1
                continue
        assert_same_outcome(folder, undisturbed)
        shutil.rmtree(folder)
    print(f"killed after so many epochs: {dict(sorted(epochs.items()))}")
    assert ended(in_child(lambda: None, folder, HOLDOUT)) == 0
    assert_same_outcome(folder, undisturbed)
    assert {0, 1, 2} <= epochs.keys()
