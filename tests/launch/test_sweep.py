"""A sweep brings every job to its end once, whatever happens to the others and to its processes."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from support.interruptions import assert_same_outcome
from support.launching import ALL_EPOCHS, run_folders
from support.project import PROJECT, Train
from support.sweeping import (
    Command,
    Ended,
    as_option,
    assert_all_end,
    run,
    snapshot,
    times_trained,
    wait_until,
    write_options,
)

from fer.cli import report
from fer.runs.run_folder import RunFolder

GRID = ["method=ce,eac", "seed=0,1"]
RATES = "0.01,0.02"
FAULTS = ["bad", "diverging", "good", "raising"]


def summary(command: Command | Ended) -> list[str]:
    """The terminal's last lines, from the one that counts the jobs on."""
    lines = command.output.splitlines()
    starts = [number for number, line in enumerate(lines) if re.match(r"\d+ jobs?: ", line)]
    assert starts, command.output
    return lines[starts[-1] :]


# Of the sweep of four jobs


@pytest.fixture(scope="module")
def grid(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return run(["-m", *overrides, *GRID, "output_dir=out"], tmp_path_factory.mktemp("grid"))


def test_jobs_of_a_sweep_have_folders_of_their_own(grid: Ended) -> None:
    folders = run_folders(grid.folder / "out" / "folder")
    assert [(folder.parent.name.partition("-")[0], folder.name) for folder in folders] == [
        ("ce", "seed0"), ("ce", "seed1"), ("eac", "seed0"), ("eac", "seed1"),
    ]  # fmt: skip
    assert all(RunFolder(folder).state == "done" for folder in folders)
    assert grid.status == 0
    assert summary(grid) == ["4 jobs: 4 done", "Table and plots  fer-report out/folder"]


def test_seeds_of_a_sweep_are_one_row_of_the_table(grid: Ended, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(grid.folder / "out")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| ce", "| eac"))]
    assert len(rows) == 2 and all("±" in row and "n=2" in row for row in rows)


def test_the_same_sweep_again_skips_every_job_at_once(grid: Ended, overrides: list[str]) -> None:
    before = snapshot(grid.folder)
    again = run(["-m", *overrides, *GRID, "output_dir=out"], grid.folder)
    assert again.status == 0
    assert summary(again)[0] == "4 jobs: 4 skipped"
    assert snapshot(grid.folder) == before


def test_a_job_of_a_sweep_is_the_run_that_its_command_alone_would_be(
    grid: Ended, overrides: list[str], tmp_path: Path
) -> None:
    alone = run([*overrides, "method=eac", "seed=1", "output_dir=out"], tmp_path)
    assert alone.status == 0, alone.output
    (folder,) = run_folders(tmp_path / "out")
    job = grid.folder / folder.relative_to(tmp_path)
    assert_same_outcome(job, folder)
    # The sweep may have been made by another of the suite's processes, whose data lies elsewhere.
    configs = [re.sub(r"popen-gw\d+", "", json.dumps(RunFolder(run).config())) for run in (job, folder)]
    assert configs[0] == configs[1]


def test_a_sweep_over_folders_of_other_runs_is_refused_with_the_difference(
    grid: Ended, overrides: list[str], tmp_path: Path
) -> None:
    """A changed default is in no folder's name."""
    output = shutil.copytree(grid.folder / "out", tmp_path / "out")
    changed = run_folders(output)[-1] / "config.yaml"
    changed.write_text(changed.read_text().replace("lam: 5.0", "lam: 4.0"))
    (run_folders(output)[0] / "result.json").unlink()
    before = snapshot(output)
    refused = run(["-m", *overrides, *GRID, f"output_dir={output}"], tmp_path)
    assert refused.status == 2
    assert "method.lam: 4.0 in the folder, 5.0 now" in refused.output
    assert snapshot(output) == before


# Refused before anything starts


@pytest.mark.parametrize(
    ("swept", "message"),
    [
        ("trainer.accelerator=cpu,auto", "does not hold trainer.accelerator"),
        ("data.root={tmp_path}/a/faces,{tmp_path}/b/faces", "does not hold data.root"),
        ("seed=0,0", "the same for all"),
        ("method=ce,nosuch", "no method=nosuch; choose one of"),
        ("precision_of_nothing=1,2", "no key precision_of_nothing"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused_before_it_starts(
    swept: str, message: str, overrides: list[str], tmp_path: Path
) -> None:
    refused = run(["-m", *overrides, swept.format(tmp_path=tmp_path), "output_dir=out"], tmp_path)
    assert refused.status == 2
    assert message in refused.output
    assert not (tmp_path / "out").exists()


def test_a_sweep_inside_of_torchrun_is_refused(overrides: list[str], tmp_path: Path) -> None:
    refused = run(["-m", *overrides, "seed=0,1", "output_dir=out"], tmp_path, TORCHELASTIC_RUN_ID="1")
    assert refused.status == 2
    assert "torchrun" in refused.output
    assert not (tmp_path / "out").exists()


def test_options_chosen_by_a_pattern_are_jobs_as_others(overrides: list[str], tmp_path: Path) -> None:
    """A method whose failure is known before it starts is a job too."""
    failed = run(["-m", *overrides, "method=glob(*)", "trainer.max_epochs=0", "output_dir=out"], tmp_path)
    assert failed.status == 1
    methods = sorted(option.stem for option in (PROJECT / "conf/method").glob("*.yaml"))
    assert summary(failed)[0] == f"{len(methods)} jobs: {len(methods)} failed"
    assert [folder.parent.name.partition("-")[0] for folder in run_folders(tmp_path / "out")] == methods


# Failing jobs


def test_one_job_is_counted_in_the_singular(overrides: list[str], tmp_path: Path) -> None:
    failed = run(["-m", *overrides, "batch_size=0", "output_dir=out"], tmp_path)
    assert failed.status == 1
    assert "1 job, 0 of them finished already" in failed.output
    assert summary(failed)[0] == "1 job: 1 failed"


class Faulty(NamedTuple):
    first: Ended
    files: dict[Path, tuple[int, bytes]]
    """Files that the first command left: time of change and content."""
    again: Ended
    """The same command after the cause of one failure has gone."""

    def folder(self, name: str) -> RunFolder:
        (folder,) = (self.first.folder / "out" / "faulty").glob(f"*-experiment@{name}/seed0")
        return RunFolder(folder)

    def errors(self, name: str) -> list[str]:
        """Read the error that a job of the first command left."""
        return self.files[self.folder(name).error_file][1].decode().splitlines()


@pytest.fixture(scope="module")
def faulty(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """A sweep given by a configuration, where one job is good and every other one fails in its own way."""
    folder = tmp_path_factory.mktemp("faulty")
    cause = folder / "cause"
    error = {"_target_": "builtins.ZeroDivisionError", "_args_": ["of all things"]}
    fault = {"_target_": "support.sweeping.FailWhile", "file": str(cause), "error": error}
    path = write_options(
        folder / "options",
        sweep__faulty={
            **as_option(overrides),
            "hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"experiment": ",".join(FAULTS)}}},
        },
        experiment__good={"seed": 0},
        experiment__bad={"method": {"lam": -1}},
        experiment__diverging={"optim": {"lr": 1e30}},
        experiment__raising={"callbacks": {"fault": fault}},
    )
    arguments = [path, "sweep=faulty", "launch.max_restarts=0", "output_dir=out"]
    cause.touch()
    first = run(arguments, folder)
    files = snapshot(folder / "out")
    cause.unlink()
    return Faulty(first, files, run(arguments, folder))


def test_failing_jobs_do_not_keep_others_from_their_end(faulty: Faulty) -> None:
    assert faulty.first.status == 1
    assert summary(faulty.first)[0] == "4 jobs: 1 done, 3 failed"
    assert faulty.folder("good").result_file in faulty.files


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("bad", "ConfigError: method.lam"),
        ("diverging", "TrainingError: "),
        ("raising", "ZeroDivisionError: of all things"),
    ],
)
def test_a_failed_job_says_why_in_its_folder_and_in_the_summary(name: str, error: str, faulty: Faulty) -> None:
    folder = faulty.folder(name)
    assert faulty.errors(name)[0].startswith(error)
    assert folder.result_file not in faulty.files
    lines = summary(faulty.first)
    where = lines.index(f"  failed  {folder.path.relative_to(faulty.first.folder)}")
    assert lines[where + 1].strip() == faulty.errors(name)[0]


def test_the_traceback_of_an_unexpected_error_is_kept(faulty: Faulty) -> None:
    assert any(line.strip() == "raise self.error" for line in faulty.errors("raising"))
    assert str(faulty.folder("raising").error_file.relative_to(faulty.first.folder)) in faulty.first.output


def test_failed_jobs_are_resumed_when_the_cause_has_gone(faulty: Faulty) -> None:
    assert faulty.again.status == 1
    assert summary(faulty.again)[0] == "4 jobs: 1 skipped, 1 resumed, 2 failed"
    assert faulty.folder("raising").state == "done"
    assert times_trained(faulty.folder("raising").path) == ALL_EPOCHS
    assert_same_outcome(faulty.folder("raising").path, faulty.folder("good").path)
    for name in ("bad", "diverging"):
        assert faulty.folder(name).state == "failed"
    assert all(file.name != "error.txt" for file in snapshot(faulty.folder("raising").path))


# Interruptions


class Interruptible:
    """A sweep of two jobs, given by a configuration, that can be made to stand still at the start of an epoch."""

    def __init__(self, overrides: list[str], folder: Path) -> None:
        self.folder, self.stop = folder, folder / "stop.txt"
        path = write_options(
            folder / "options",
            sweep__rates={
                **as_option(overrides),
                "hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"optim.lr": RATES}}},
                "callbacks": {"stop": {"_target_": "support.sweeping.StopAt", "file": str(self.stop)}},
            },
        )
        self.arguments = [path, "sweep=rates", "output_dir=out"]

    def start(self, stop: str = "") -> Command:
        """Return when epoch and learning rate ``stop`` are reached, or at once."""
        self.stop.write_text(stop)
        reached = self.stop.with_suffix(".reached")
        reached.unlink(missing_ok=True)
        command = Command(self.arguments, self.folder)
        if stop:
            wait_until(reached.exists, command)
        return command

    def assert_finished_as(self, undisturbed: list[Path]) -> None:
        folders = run_folders(self.folder / "out" / "rates")
        assert [folder.parent.name for folder in folders] == [
            "eac-tiny-symmetric0.3-lam5-optim.lr@0.01", "eac-tiny-symmetric0.3-lam5-optim.lr@0.02",
        ]  # fmt: skip
        for folder, other in zip(folders, undisturbed, strict=True):
            assert_same_outcome(folder, other)

    def assert_ends_as(self, undisturbed: list[Path], told: str) -> None:
        """The command goes on to the end of all jobs, and no epoch was trained twice."""
        command = self.start()
        assert command.wait() == 0, command.output
        assert summary(command)[0] == told
        self.assert_finished_as(undisturbed)
        assert [times_trained(folder) for folder in run_folders(self.folder / "out")] == [ALL_EPOCHS, ALL_EPOCHS]


@pytest.fixture
def interruptible(overrides: list[str], tmp_path: Path) -> Interruptible:
    return Interruptible(overrides, tmp_path)


@pytest.fixture
def undisturbed(train: Train, tmp_path: Path) -> list[Path]:
    """The same two jobs, trained in this process."""
    for rate in RATES.split(","):
        train(tmp_path / "undisturbed" / rate, f"optim.lr={rate}")
    return [tmp_path / "undisturbed" / rate for rate in RATES.split(",")]


def test_a_sweep_ended_in_its_second_job_goes_on_there(interruptible: Interruptible, undisturbed: list[Path]) -> None:
    command = interruptible.start("0.02 1")
    command.process.terminate()
    assert command.wait() == 143, command.output
    assert summary(command)[0] == "2 jobs: 1 done, 1 not finished"
    assert_all_end(command)
    interruptible.assert_ends_as(undisturbed, "2 jobs: 1 skipped, 1 resumed")


@pytest.mark.slow
def test_a_sweep_interrupted_in_every_way_ends_as_if_it_had_not_been(
    interruptible: Interruptible, undisturbed: list[Path]
) -> None:
    # Its first process is killed in the first job.
    command = interruptible.start("0.01 1")
    assert len(command.processes()) > 1
    command.process.kill()
    command.wait()
    assert_all_end(command)

    # Ctrl-C in the first job.
    command = interruptible.start("0.01 2")
    command.press_ctrl_c()
    assert command.wait() == 130, command.output
    assert "interrupted; the same command goes on from here" in command.output
    assert summary(command)[0] == "2 jobs: 2 not finished"
    assert_all_end(command)

    # SIGTERM in the second job.
    command = interruptible.start("0.02 1")
    command.process.terminate()
    assert command.wait() == 143, command.output
    assert summary(command)[0] == "2 jobs: 1 resumed, 1 not finished"
    assert_all_end(command)

    interruptible.assert_ends_as(undisturbed, "2 jobs: 1 skipped, 1 resumed")


def test_sigterm_between_two_jobs_ends_a_sweep_with_its_summary(overrides: list[str], tmp_path: Path) -> None:
    """While no worker runs: here the first process only goes over jobs that cannot start."""
    command = Command(["-m", *overrides, "seed=range(-10,0)", "output_dir=out"], tmp_path)
    wait_until(lambda: list((tmp_path / "out").rglob("error.txt")), command)
    command.process.terminate()
    assert command.wait() == 143, command.output
    assert "failed" in summary(command)[0] and "not finished" in summary(command)[0]


@pytest.mark.slow
@pytest.mark.parametrize("only_first_process", [False, True], ids=["all processes", "first process"])
def test_a_sweep_killed_at_random_moments_ends_as_if_it_had_not_been(
    only_first_process: bool, interruptible: Interruptible, undisturbed: list[Path]
) -> None:
    moments = random.Random(int(only_first_process))
    for _ in range(6):
        command = interruptible.start()
        time.sleep(moments.uniform(2, 25))
        finished = {folder: snapshot(folder) for folder in run_folders(interruptible.folder / "out")}
        finished = {folder: files for folder, files in finished.items() if folder / "result.json" in files}
        if only_first_process:
            command.process.kill()
        else:
            command.kill_all()
        command.wait()
        assert_all_end(command)
        assert all(snapshot(folder) == files for folder, files in finished.items())
    command = interruptible.start()
    assert command.wait() == 0, command.output
    interruptible.assert_finished_as(undisturbed)


# Two processes on one folder


def test_of_two_processes_on_a_folder_one_trains_and_the_other_takes_its_result(
    interruptible: Interruptible, overrides: list[str], tmp_path: Path
) -> None:
    arguments = [
        *overrides, "output_dir=out", "+callbacks.stop._target_=support.sweeping.StopAt",
        f"+callbacks.stop.file={interruptible.stop}", "optim.lr=0.01",
    ]  # fmt: skip
    interruptible.stop.write_text("0.01 1")
    first = Command(arguments, tmp_path)
    wait_until(interruptible.stop.with_suffix(".reached").exists, first)
    (folder,) = run_folders(tmp_path / "out")
    second = Command(arguments, tmp_path)
    wait_until(lambda: has_open(second, folder / ".lock"), second)
    interruptible.stop.write_text("")
    assert (first.wait(), second.wait()) == (0, 0), first.output + second.output
    assert times_trained(folder) == ALL_EPOCHS
    assert [line for line in second.output.splitlines() if line.startswith("epoch ")] == []
    assert "accuracy" in second.output


def has_open(command: Command, file: Path) -> bool:
    try:
        return any(link.resolve() == file for link in Path(f"/proc/{command.process.pid}/fd").iterdir())
    except OSError:
        return False


@pytest.mark.slow
def test_two_equal_sweeps_at_once_train_every_job_once(overrides: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *overrides, "optim.lr=0.01,0.02", "output_dir=out"]
    first, second = Command(arguments, tmp_path), Command(arguments, tmp_path)
    assert (first.wait(), second.wait()) == (0, 0), first.output + second.output
    folders = run_folders(tmp_path / "out")
    assert [times_trained(folder) for folder in folders] == [ALL_EPOCHS, ALL_EPOCHS]
