"""A disk that is full or read-only and files that are damaged cost at most the running epoch, and are named."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.disk_limits import LAST, lift_limit, room_for
from support.interruptions import assert_same_outcome
from support.project import PROJECT, Train

from fer.errors import TrainingError
from fer.runs.run_folder import RunFolder, RunFolderError

pytestmark = [pytest.mark.measured, pytest.mark.usefixtures("unlimited")]


@pytest.mark.parametrize(
    ("room", "logger", "named"),
    [(20_000, "none", "last.ckpt in epoch 2"), (100, "none", "records.jsonl in epoch 2"), (100, "tensorboard", "")],
)
def test_a_full_disk_stops_the_run_and_leaves_the_epoch_before(
    room: int, logger: str, named: str, train: Train, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match=rf"{named}.*File too large.*make room, and the same command goes on"):
        train(folder, *room_for(room), f"logger={logger}")
    lift_limit()
    assert (folder / LAST).read_bytes() == (folder / "before.ckpt").read_bytes()
    assert [file.name for file in folder.rglob(".*")] == [".lock"]
    assert RunFolder(folder).state == "failed"
    train(folder, f"logger={logger}")
    train(tmp_path / "undisturbed", f"logger={logger}")
    assert_same_outcome(folder, tmp_path / "undisturbed")


@pytest.fixture
def interrupted(train: Train, tmp_path: Path) -> Path:
    """A run whose result is missing."""
    train(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named_and_kept(share: float, interrupted: Path, train: Train) -> None:
    whole = (interrupted / LAST).read_bytes()
    damaged = whole[: int(share * len(whole))]
    (interrupted / LAST).write_bytes(damaged)
    records = (interrupted / "records.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match=r"last\.ckpt cannot be read .*restore it, or remove it and train again"):
        train(interrupted)
    assert (interrupted / LAST).read_bytes() == damaged
    assert (interrupted / "records.jsonl").read_bytes() == records
    (interrupted / LAST).unlink()
    train(interrupted)


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


def test_a_hostile_checkpoint_is_not_run(interrupted: Path, train: Train, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"state_dict": {}, "epoch": Hostile(trace)}, interrupted / LAST)
    with pytest.raises(RunFolderError, match=r"last\.ckpt cannot be read"):
        train(interrupted)
    assert not trace.exists()
    torch.load(interrupted / LAST, weights_only=False)
    assert trace.exists(), "it was hostile"


def test_other_files_under_the_name_of_a_checkpoint_are_refused(interrupted: Path, train: Train) -> None:
    torch.save({"weights": torch.zeros(1)}, interrupted / LAST)
    with pytest.raises(RunFolderError, match="no checkpoint of a run"):
        train(interrupted)
    torch.save([1, 2], interrupted / LAST)
    with pytest.raises(RunFolderError, match="no checkpoint of a run"):
        train(interrupted)


TRAIN_IN = """
import sys
from support.project import CHOICES
from fer.launch import run_job
from fer.config.compose import compose
from fer.files.terminal import report_errors
with report_errors("train"):
    run_job.run(compose(sys.argv[2:]), sys.argv[1], CHOICES)
"""


@pytest.mark.parametrize("state", ["new", "incomplete"])
def test_a_read_only_folder_is_refused_at_the_start(
    state: str, overrides: list[str], interrupted: Path, tmp_path: Path
) -> None:
    """The folder is mounted read-only, because permissions do not bind the superuser."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to mount a folder read-only for one process")
    folder = interrupted if state == "incomplete" else tmp_path / "new"
    folder.mkdir(exist_ok=True)
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && exec"
    train = shlex.join([sys.executable, "-c", TRAIN_IN, str(folder), *overrides])
    tests = PROJECT / "tests"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} {train}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (PROJECT, tests, tests / "promises")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"cannot write to {folder} (Read-only file system); choose another folder with output_dir=" in done.stderr
