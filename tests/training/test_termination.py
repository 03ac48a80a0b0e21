"""SIGTERM amid an epoch: the same command goes on at the next step and ends as if nothing had happened."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from support.disk_limits import lift_limit
from support.interruptions import assert_same_outcome
from support.project import CHOICES, Train
from support.terminations import INTERRUPTED, terminated

from fer.config.compose import compose
from fer.errors import TrainingError
from fer.launch import run_job
from fer.runs.run_folder import RunFolder, RunFolderError
from fer.training.callbacks.progress_bar import epochs_behind

STEPS = 4
"""Steps of an epoch."""
LAST = Path("checkpoints", "last.ckpt")


def train_until_terminated(train: Train, folder: Path, *overrides: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        train(folder, *overrides)
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.fixture(scope="module")
def undisturbed(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_job.run(compose(overrides), folder, CHOICES)
    return folder


@pytest.mark.measured
@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (0, STEPS - 1), (1, 1), (1, STEPS - 2), (1, STEPS - 1)])
def test_goes_on_at_the_next_step(epoch: int, step: int, undisturbed: Path, train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_until_terminated(train, folder, *terminated(epoch, step))
    is_amid = step < STEPS - 1
    assert (folder / INTERRUPTED).is_file() == is_amid
    assert len(RunFolder(folder).records()) == epoch + (not is_amid)
    assert RunFolder(folder).state == "incomplete"
    train(folder)
    assert not (folder / INTERRUPTED).exists()
    assert_same_outcome(folder, undisturbed)
    log = (folder / "train.log").read_text()
    assert (f"ended by SIGTERM amid epoch {epoch + 1}, after step {step + 1}" in log) == is_amid
    assert (f"resuming amid epoch {epoch + 1}" in log) == is_amid
    assert "WARNING" not in log
    seconds = [record["seconds"] for record in RunFolder(folder).records()]
    assert all(value > 0 for value in seconds)


class TerminateEarly(L.Callback):
    """Sends SIGTERM while Lightning's own handler is in place."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def as_in_workers() -> Iterator[None]:
    """No handler of ours, which would end the process at once."""
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("as_in_workers")
def test_a_signal_before_the_first_step_is_not_lost(undisturbed: Path, train: Train, tmp_path: Path) -> None:
    early = "+callbacks.early._target_=test_termination.TerminateEarly"
    train_until_terminated(train, tmp_path / "run", early)
    assert times_of(tmp_path / "run", "ended by SIGTERM amid epoch 1, after step 1") == 1
    train(tmp_path / "run")
    assert_same_outcome(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(
    "more",
    [
        ["num_workers=2"],
        ["protocol=holdout"],
        ["train_samples=50"],
        ["sampling=balanced", "method=elr", "protocol=holdout"],
        ["sampling=progressive"],
    ],
)
def test_goes_on_in_every_order_of_samples(more: list[str], train: Train, tmp_path: Path) -> None:
    train(tmp_path / "undisturbed", *more)
    train_until_terminated(train, tmp_path / "run", *more, *terminated(1, 1))
    train(tmp_path / "run", *more)
    assert_same_outcome(tmp_path / "run", tmp_path / "undisturbed")


def test_goes_on_as_often_as_it_is_ended(undisturbed: Path, train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for place in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 3), (2, 2)):
        train_until_terminated(train, folder, *terminated(*place))
    train(folder)
    assert_same_outcome(folder, undisturbed)


class NoteEpochsBehind(L.Callback):
    """Writes how far the run is when a training starts."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.file.write_text(str(epochs_behind(trainer)))


@pytest.mark.parametrize(("place", "behind"), [((1, 2), 1.75), ((1, 3), 2.0)])
def test_time_left_counts_the_steps_of_an_interrupted_epoch(
    place: tuple[int, int], behind: float, train: Train, tmp_path: Path
) -> None:
    train_until_terminated(train, tmp_path / "run", *terminated(*place))
    note = tmp_path / "note.txt"
    train(
        tmp_path / "run", "+callbacks.note._target_=test_termination.NoteEpochsBehind", f"+callbacks.note.file={note}"
    )
    assert float(note.read_text()) == behind


# Faults


def test_what_a_crash_has_left_behind_is_not_taken(undisturbed: Path, train: Train, tmp_path: Path) -> None:
    """Between the end of an epoch and the removal of the checkpoint from its midst."""
    folder = tmp_path / "run"
    train_until_terminated(train, folder, *terminated(1, 0))
    shutil.copy(folder / INTERRUPTED, tmp_path)
    train_until_terminated(train, folder, *terminated(1, STEPS - 1))
    shutil.copy(tmp_path / INTERRUPTED.name, folder / INTERRUPTED)
    train(folder)
    assert times_of(folder, "resuming after epoch 2") == 1
    assert_same_outcome(folder, undisturbed)


def times_of(folder: Path, words: str) -> int:
    return (folder / "train.log").read_text().count(words)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_checkpoint_is_named_and_kept(share: float, undisturbed: Path, train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_until_terminated(train, folder, *terminated(1, 1))
    whole = (folder / INTERRUPTED).read_bytes()
    (folder / INTERRUPTED).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RunFolderError, match=r"interrupted\.ckpt cannot be read .*remove it and"):
        train(folder)
    assert len(RunFolder(folder).records()) == 1
    (folder / INTERRUPTED).unlink()
    train(folder)
    assert_same_outcome(folder, undisturbed)


class FillDisk(L.Callback):
    """Limits the size of files from the second epoch's first step on."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.usefixtures("unlimited")
def test_on_a_full_disk_the_epoch_is_lost_and_no_more(undisturbed: Path, train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    full = "+callbacks.full._target_=test_termination.FillDisk"
    train_until_terminated(train, folder, full, *terminated(1, 1))
    lift_limit()
    assert not (folder / INTERRUPTED).exists()
    assert times_of(folder, "interrupted.ckpt (File too large): this epoch is lost") == 1
    train(folder)
    assert times_of(folder, "resuming after epoch 1") == 1
    assert_same_outcome(folder, undisturbed)


def test_no_state_that_has_diverged_is_kept(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"loss.* is .*in epoch 1, step 2, of samples"):
        train(folder, "optim.lr=1e30", *terminated(0, 1))
    assert not (folder / INTERRUPTED).exists()
    assert RunFolder(folder).state == "failed"


def test_a_checkpoint_holds_tensors_and_plain_values_only(train: Train, tmp_path: Path) -> None:
    train_until_terminated(train, tmp_path / "run", *terminated(0, 0))
    content = torch.load(tmp_path / "run" / INTERRUPTED, weights_only=True)
    assert content["epoch"] == 0
