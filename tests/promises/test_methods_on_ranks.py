"""Promises of every method on several devices: ranks agree, and end together when one is asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from support.interruptions import assert_same_outcome
from support.method_overrides import METHODS, overrides_of
from support.project import CHOICES
from support.ranks import Ranks
from support.terminations import INTERRUPTED, terminated
from support.training_ranks import train as train_as_rank


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
    keep = ["+callbacks.keep._target_=test_methods_on_ranks.KeepState", f"+callbacks.keep.folder={tmp_path}"]
    ranks[2](train_as_rank, tmp_path / "run", [*overrides, *more, *keep], CHOICES)
    for epoch in range(2):
        first, second = (torch.load(tmp_path / f"{epoch}-{rank}.pt", weights_only=True) for rank in range(2))
        assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_state_of_samples_is_that_of_the_rank_that_saw_them(
    sampling: str, overrides: list[str], ranks: dict[int, Ranks], tmp_path: Path
) -> None:
    """Two devices hold the targets that one would, in float64 and without augmentation.

    With ``balanced``, both see some samples, in one step and in several.
    """
    targets = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        more = [
            "method=elr",
            f"sampling={sampling}",
            f"trainer.devices={devices}",
            "batch_size=20",
            "trainer.precision=64-true",
        ]
        both = [*overrides, *more, "augment=none", "augment.size=32", "trainer.accelerator=cpu"]
        results: Any = ranks[2](train_as_rank, folder, both) if devices == 2 else train_as_rank(folder, both)
        assert results
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        targets.append(state["targets"])
    assert (targets[0].sum(1) > 0.6).all() or sampling == "balanced"
    torch.testing.assert_close(targets[0], targets[1], rtol=1e-9, atol=1e-9)


ON_RANKS = {
    "eac": [],
    "elr": [],  # rows that follow samples
    "scn": ["method.relabel_from=0", "method.relabel_margin=0"],
    "ad_corre": [],
    "dividemix": ["method.warm_up=1"],  # what is made at the start of an epoch
    "ce": ["sync_batchnorm=false"],
}


@pytest.mark.parametrize(
    "method",
    [name if name in ("elr", "dividemix", "ce") else pytest.param(name, marks=pytest.mark.slow) for name in ON_RANKS],
)
def test_ranks_end_at_the_same_step_also_where_one_is_asked(
    method: str, overrides: list[str], ranks: dict[int, Ranks], tmp_path: Path
) -> None:
    values = [*overrides, f"method={method}", *ON_RANKS[method], "trainer.devices=2", "trainer.accelerator=cpu"]
    ranks[2](train_as_rank, tmp_path / "undisturbed", values)
    assert ranks[2](status_of, tmp_path / "run", [*values, *terminated(1, 1, rank=1)]) == [143, 143]
    assert (tmp_path / "run" / INTERRUPTED).is_file()
    ranks[2](train_as_rank, tmp_path / "run", values)
    assert_same_outcome(tmp_path / "run", tmp_path / "undisturbed")


def status_of(folder: Path, overrides: list[str]) -> Any:
    """Train as a rank and return its exit status."""
    with pytest.raises(SystemExit) as stop:
        train_as_rank(folder, overrides)
    return stop.value.code
