"""What every method promises, whichever it is: a resumed run is the uninterrupted one. (On ranks: the file beside.)"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import PROJECT, Train
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
