"""A loss that is not finite stops the run, and the message says where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.project import Train
from support.spoiling import spoil

from fer.errors import TrainingError
from fer.runs.run_folder import RunFolder


@pytest.mark.parametrize("log_every", [1, 50])
@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (2, 3), (3, 4)])
def test_epoch_step_part_and_samples_are_named(
    epoch: int, step: int, log_every: int, train: Train, tmp_path: Path
) -> None:
    arguments = spoil(epoch=epoch, step=step, value=1e38)
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, *arguments, f"trainer.log_every_n_steps={log_every}")
    message = str(caught.value)
    assert f"loss_cls is nan, loss_consistency is nan, loss_consistency_weighted is nan in epoch {epoch}, step {step}, "
    assert f"of samples {(tmp_path / 'spoilt.txt').read_text()} (rows of noise.csv from 0)" in message
    folder = RunFolder(tmp_path)
    assert folder.state == "failed" and message.split(",")[0] in folder.error()
    assert len(folder.records()) == epoch - 1


def test_a_loss_that_explodes_stops_the_run(train: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training has diverged; try a smaller optim\.lr"):
        train(tmp_path, "optim=sgd", "optim.lr=1e30")


def test_the_run_goes_on_when_the_cause_has_gone(train: Train, tmp_path: Path) -> None:
    undisturbed = train(tmp_path / "undisturbed")
    with pytest.raises(TrainingError):
        train(tmp_path / "run", *spoil(epoch=2, step=1, value=1e38))
    again = train(tmp_path / "run")
    assert again["metrics"] == undisturbed["metrics"]
    assert RunFolder(tmp_path / "run").state == "done"
