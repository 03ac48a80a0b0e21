"""An interrupted run, started again, ends as if it had never been interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.interruptions import EPOCHS, PowerCut, assert_same_outcome, cut_in, records
from support.project import CHOICES, PROJECT, Train
from support.sweeping import Command, times_trained, wait_until

from fer.config.compose import compose
from fer.errors import UserError
from fer.launch import run_job
from fer.runs.run_folder import RunFolder, RunFolderError
from fer.training.experiment import evaluate
from fer.training.kept_config import ReadingOptions, read_kept_config


@pytest.fixture
def undisturbed(train: Train, tmp_path: Path) -> Path:
    train(tmp_path / "undisturbed")
    return tmp_path / "undisturbed"


def test_same_command_twice_gives_identical_results(undisturbed: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "again")
    assert_same_outcome(tmp_path / "again", undisturbed)


@pytest.mark.measured
@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_interrupted_at_any_epoch_resumes_to_the_same_result(
    epoch: int, undisturbed: Path, train: Train, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    with pytest.raises(PowerCut):
        train(folder, *cut_in(epoch))
    assert len(records(folder)) == epoch
    assert RunFolder(folder).state == "incomplete"
    train(folder)
    assert_same_outcome(folder, undisturbed)


@pytest.mark.measured
def test_record_without_its_checkpoint_is_written_again(undisturbed: Path, train: Train, tmp_path: Path) -> None:
    """A crash between the two leaves one record too many, or half of one."""
    folder = tmp_path / "cut"
    with pytest.raises(PowerCut):
        train(folder, *cut_in(2))
    with (folder / "records.jsonl").open("a") as stream:
        stream.write(json.dumps({"epoch": 2, "test/acc": 0.5, "seconds": 1.0}) + "\n")
        stream.write('{"epoch": 3, "test/a')
    train(folder)
    assert_same_outcome(folder, undisturbed)


@pytest.mark.measured
def test_finished_run_is_not_trained_again(undisturbed: Path, train: Train) -> None:
    before = (undisturbed / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    result = train(undisturbed)
    assert result == RunFolder(undisturbed).result()
    assert (undisturbed / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


@pytest.mark.measured
def test_a_run_that_lost_only_its_result_is_finished_without_training(undisturbed: Path, train: Train) -> None:
    before, predictions = RunFolder(undisturbed).result(), (undisturbed / "predictions.csv").read_bytes()
    for name in ("result.json", "predictions.csv"):
        (undisturbed / name).unlink()
    again = train(undisturbed)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in before.items() if k != "seconds"}
    assert (undisturbed / "predictions.csv").read_bytes() == predictions


@pytest.mark.measured
def test_folder_of_another_configuration_is_refused_with_the_difference(undisturbed: Path, train: Train) -> None:
    with pytest.raises(UserError, match=r"method\.lam: 5\.0 in the folder, 2\.0 now"):
        train(undisturbed, "method.lam=2.0")
    assert len(records(undisturbed)) == EPOCHS


@pytest.mark.measured
def test_a_job_of_a_sweep_is_compared_with_its_folder_before_the_sweep(
    undisturbed: Path, overrides: list[str], shapes: Path, tmp_path: Path
) -> None:
    def check(folder: Path, *more: str) -> None:
        run_job.check_folder(compose([*overrides, *more]), folder, CHOICES)

    check(tmp_path / "nowhere")
    check(undisturbed)
    with pytest.raises(RunFolderError, match=r"method\.lam: 5\.0 in the folder, 2\.0 now"):
        check(undisturbed, "method.lam=2.0")
    check(undisturbed, "noise.ratio=???")  # this job fails by itself, and keeps no other from its turn
    (tmp_path / "moved").symlink_to(shapes)
    check(undisturbed, f"data.root={tmp_path / 'moved'}")


@pytest.mark.parametrize("same", ["num_workers=2", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false"])
def test_what_cannot_change_a_result_does_not(same: str, undisturbed: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "other", same)
    assert_same_outcome(tmp_path / "other", undisturbed)


def test_workers_and_what_is_shown_do_not_change_a_method_that_draws(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "one", "method=dividemix", "method.warm_up=1")
    train(tmp_path / "other", "method=dividemix", "method.warm_up=1", "num_workers=2", "callbacks=none", "logger=none")
    assert_same_outcome(tmp_path / "one", tmp_path / "other")


def test_reestimated_statistics_survive_an_interruption(undisturbed: Path, train: Train, tmp_path: Path) -> None:
    """They change what is tested, and nothing of the training; the checkpoint holds them."""
    values = ["evaluation.batch_norm=reestimated", "evaluation.batches=3"]
    train(tmp_path / "whole", *values)
    with pytest.raises(PowerCut):
        train(
            tmp_path / "cut",
            *values,
            *cut_in(1),
        )
    train(tmp_path / "cut", *values)
    assert_same_outcome(tmp_path / "cut", tmp_path / "whole")
    ours, theirs = records(tmp_path / "whole"), records(undisturbed)
    assert [each["train/loss"] for each in ours] == [each["train/loss"] for each in theirs]
    assert [each["test/acc"] for each in ours] != [each["test/acc"] for each in theirs]
    result = RunFolder(tmp_path / "whole").result()
    assert result["evaluation"] == {"batch_norm": "reestimated", "batches": 3, "labels": "majority", "share": 0.3}
    settings = read_kept_config(RunFolder(tmp_path / "whole"), ReadingOptions())
    tested = evaluate(settings, RunFolder(tmp_path / "whole"))
    assert tested == {name: value for name, value in ours[-1].items() if name.startswith("test/")}


def test_another_seed_gives_another_result(undisturbed: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "other", "seed=1")
    assert records(tmp_path / "other") != records(undisturbed)
    assert (tmp_path / "other" / "noise.csv").read_bytes() == (undisturbed / "noise.csv").read_bytes()


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_ended_by_a_signal_goes_on_by_the_same_command(
    devices: int, overrides: list[str], train: Train, tmp_path: Path
) -> None:
    stop = tmp_path / "stop.txt"
    values = ["optim.lr=0.001", f"trainer.devices={devices}"]
    arguments = [
        *overrides, *values, "+callbacks.stop._target_=support.sweeping.StopAt", f"+callbacks.stop.file={stop}",
        f"output_dir={tmp_path / 'out'}",
    ]  # fmt: skip

    def start(where: str) -> Command:
        stop.write_text(where)
        stop.with_suffix(".reached").unlink(missing_ok=True)
        command = Command(arguments, tmp_path)
        if where:
            wait_until(stop.with_suffix(".reached").exists, command)
        return command

    command = start("0.001 1")
    command.process.terminate()
    assert command.wait() == 143, command.output
    assert "ended by SIGTERM; the same command goes on from here" in command.output
    command = start("0.001 2")
    (folder,) = (file.parent for file in (tmp_path / "out").rglob("config.yaml"))
    assert "ended by SIGTERM amid epoch 2, after step 1" in (folder / "train.log").read_text()
    command.press_ctrl_c()
    assert command.wait() == 130, command.output
    assert "interrupted; the same command goes on from here" in command.output
    assert "Traceback" not in command.output
    command = start("")
    assert command.wait() == 0, command.output
    (folder,) = (file.parent for file in (tmp_path / "out").rglob("result.json"))
    assert times_trained(folder) == [f"{epoch + 1}/{EPOCHS}" for epoch in range(EPOCHS)]
    train(tmp_path / "undisturbed", *values)
    assert_same_outcome(folder, tmp_path / "undisturbed")


@pytest.mark.slow
def test_killed_processes_resume_to_the_same_result(undisturbed: Path, overrides: list[str], tmp_path: Path) -> None:
    """SIGKILL at moments spread over the whole life of the process, then once to the end."""
    command = [sys.executable, "-m", "fer.cli.train", *overrides, f"output_dir={tmp_path / 'out'}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)

    started = time.monotonic()
    reference = subprocess.run([*command, "seed=1"], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert reference.returncode == 0, reference.stderr.decode()
    whole = time.monotonic() - started
    for share in (0.5, 0.7, 0.8, 0.9, 0.95):
        process = start()
        time.sleep(share * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start().wait() == 0
    (folder,) = (path.parent for path in (tmp_path / "out").glob("**/seed0/result.json"))
    assert_same_outcome(folder, undisturbed)


@pytest.mark.measured
def test_a_run_whose_data_has_moved_is_still_the_same_run(undisturbed: Path, train: Train, shapes: Path) -> None:
    moved = undisturbed.parent / "moved"
    moved.symlink_to(shapes)
    assert train(undisturbed, f"data.root={moved}") == RunFolder(undisturbed).result()


@pytest.mark.measured
def test_other_data_under_the_same_name_is_not_taken_for_the_run(
    undisturbed: Path, train: Train, shapes: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(shapes, other)
    shutil.copy(other / "test" / "bar" / "000.png", other / "test" / "bar" / "001.png")
    with pytest.raises(UserError, match="other images"):
        train(undisturbed, f"data.root={other}")
    (undisturbed / "result.json").unlink()
    with pytest.raises(UserError, match="other images"):
        train(undisturbed, f"data.root={other}")
    train(undisturbed)
