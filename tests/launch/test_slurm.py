"""A job that SLURM takes its node from is queued again and ends as if nothing had happened."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.interruptions import assert_same_outcome
from support.launching import ALL_EPOCHS, SLURM, run_folders
from support.project import PROJECT, Train
from support.sweeping import Command, times_trained, wait_until

from fer.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow

MINUTES = 6
"""SLURM lets a job that is queued again wait for two."""


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


class Stop:
    """Stands still before the second epoch until it is released."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "stop.txt"
        self.file.write_text("0.0001 1")
        self.overrides = [
            "optim.lr=0.0001", "+callbacks.stop._target_=support.sweeping.StopAt", f"+callbacks.stop.file={self.file}",
        ]  # fmt: skip

    def is_reached(self) -> bool:
        return self.file.with_suffix(".reached").exists()

    def release(self) -> None:
        self.file.write_text("")


@pytest.fixture
def stop(tmp_path: Path) -> Stop:
    return Stop(tmp_path)


@pytest.fixture
def undisturbed(train: Train, tmp_path: Path) -> Path:
    train(tmp_path / "undisturbed", "optim.lr=0.0001")
    return tmp_path / "undisturbed"


def assert_went_on(output: Path, undisturbed: Path) -> None:
    (folder,) = run_folders(output)
    assert times_trained(folder) == ALL_EPOCHS  # the epoch before the interruption was not trained again
    assert RunFolder(folder).stamp()["resumed_after_epoch"] == 1
    assert_same_outcome(folder, undisturbed)


@pytest.mark.parametrize("launcher", [SLURM], indirect=True)
def test_a_batch_job_that_is_queued_again_goes_on(
    launcher: str, stop: Stop, undisturbed: Path, overrides: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    train = shlex.join([sys.executable, "-m", "fer.cli.train", *overrides, *stop.overrides, f"output_dir={output}"])
    paths = f"{PROJECT}:{PROJECT / 'tests'}"
    log = tmp_path / "job.txt"
    job = slurm(
        "sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={log}",
        f"--export=ALL,PYTHONPATH={paths},OMP_NUM_THREADS=1", f"--wrap={train}",
    ).strip()  # fmt: skip
    try:
        wait_for(stop.is_reached, log)
        slurm("scontrol", "requeue", job)
        wait_for(lambda: "ended by SIGTERM; the same command goes on" in log.read_text(), log)
        stop.release()
        wait_for(lambda: [*output.rglob("result.json")], log)
    finally:
        subprocess.run(["scancel", job], check=False, capture_output=True)
    assert_went_on(output, undisturbed)


@pytest.mark.parametrize("signals", [["USR2"], ["TERM", "USR2"]], ids=["out of time", "pre-empted"])
@pytest.mark.parametrize("launcher", [SLURM], indirect=True)
def test_a_job_of_a_sweep_that_is_queued_again_goes_on(
    launcher: str, signals: list[str], stop: Stop, undisturbed: Path, overrides: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = Command(["-m", launcher, *overrides, *stop.overrides, f"output_dir={output}"], tmp_path)
    try:
        wait_until(stop.is_reached, command)
        (job,) = slurm("squeue", "--noheader", "--format=%A", "--name=fer").split()
        for signal in signals:
            slurm("scancel", f"--signal={signal}", job)
            time.sleep(1)
        stop.release()
        assert command.wait(60 * MINUTES) == 0, command.output
    finally:
        subprocess.run(["scancel", "--name=fer"], check=False, capture_output=True)
    assert_went_on(output, undisturbed)


def wait_for(holds: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + 60 * MINUTES
    while not holds():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no output"
        time.sleep(0.2)
