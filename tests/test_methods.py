"""What every method promises, whichever it is: a resumed run is the uninterrupted one, and ranks agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from conftest import CHOICES, PROJECT, Train
from lightning.pytorch.callbacks import Checkpoint
from ranks import Ranks
from test_distributed import train as train_as_rank
from test_pictures import assert_same_maps
from test_resume import PowerCut, records
from test_termination import terminated

METHODS = sorted(path.stem for path in (PROJECT / "conf" / "method").glob("*.yaml"))
# What needs the seven expressions, so that the shapes' three classes must be told.
OF_THREE_CLASSES = {"pdls": ["method.classes=[bar,disc,line]", "method.prior=[[0.8,0.1,0.1],[0.05,0.9,0],[0,0.3,0.7]]"]}
# Schedules that would not act within three epochs, and variants that keep more state.
ACTING = {
    "dividemix": ["method.warm_up=1"],
    "man": ["method.warm_up=1"],
    "gce": ["method.truncate_at=0.34", "method.truncate_from=1", "method.truncate_every=1"],
    "transfer": ["method.blocks=1", "method.heads=2", "method.dimensions=16"],
    "scn": ["method.relabel_from=0", "method.relabel_margin=0", "method.lam=1"],
}


def overrides_of(method: str) -> list[str]:
    return [f"method={method}", *OF_THREE_CLASSES.get(method, []), *ACTING.get(method, [])]


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(method: str, train: Train, tmp_path: Path) -> None:
    overrides = overrides_of(method)
    train(tmp_path / "whole", *overrides)
    with pytest.raises(SystemExit):
        train(tmp_path / "cut", *overrides, *terminated(1, 1))
    with pytest.raises(PowerCut):
        train(tmp_path / "cut", *overrides, "+callbacks.cut._target_=test_resume.CutPower", "+callbacks.cut.epoch=2")
    train(tmp_path / "cut", *overrides)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert_same_maps(tmp_path / "cut", tmp_path / "whole")
    assert "WARNING" not in (tmp_path / "whole" / "train.log").read_text()
    first, second = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("cut", "whole")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


class KeepState(Checkpoint):
    """Keeps what a rank holds after every epoch."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        torch.save(state, self.folder / f"{trainer.current_epoch}-{trainer.global_rank}.pt")


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_hold_the_same_after_every_epoch(
    method: str, overrides: list[str], ranks: dict[int, Ranks], tmp_path: Path
) -> None:
    more = [*overrides_of(method), "trainer.devices=2", "batch_size=20", "trainer.max_epochs=2"]
    more.append("trainer.accelerator=cpu")
    keep = ["+callbacks.keep._target_=test_methods.KeepState", f"+callbacks.keep.folder={tmp_path}"]
    ranks[2](train_as_rank, tmp_path / "run", [*overrides, *more, *keep], CHOICES)
    for epoch in range(2):
        first, second = (torch.load(tmp_path / f"{epoch}-{rank}.pt", weights_only=True) for rank in range(2))
        assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_state_of_samples_is_that_of_the_rank_that_saw_them(
    overrides: list[str], ranks: dict[int, Ranks], tmp_path: Path
) -> None:
    """Without augmentation and in float64, two devices hold the targets that one would."""
    targets = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        more = ["method=elr", f"trainer.devices={devices}", "batch_size=20", "trainer.precision=64-true"]
        both = [*overrides, *more, "augment=none", "augment.size=32", "trainer.accelerator=cpu"]
        results: Any = ranks[2](train_as_rank, folder, both) if devices == 2 else train_as_rank(folder, both)
        assert results
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        targets.append(state["targets"])
    assert (targets[0].sum(1) > 0.6).all()
    torch.testing.assert_close(targets[0], targets[1], rtol=1e-9, atol=1e-9)
