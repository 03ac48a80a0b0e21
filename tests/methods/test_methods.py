"""Promises of every method: a resumed run equals the uninterrupted one. (On ranks: the file beside.)"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.interruptions import PowerCut, cut_in, records
from support.maps import assert_same_maps
from support.method_overrides import METHODS, overrides_of
from support.project import Train
from support.terminations import terminated


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(method: str, train: Train, tmp_path: Path) -> None:
    overrides = overrides_of(method)
    train(tmp_path / "whole", *overrides)
    with pytest.raises(SystemExit):
        train(tmp_path / "cut", *overrides, *terminated(1, 1))
    with pytest.raises(PowerCut):
        train(
            tmp_path / "cut",
            *overrides,
            *cut_in(2),
        )
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
