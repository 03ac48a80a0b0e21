"""Runs with frozen stages, slower stages and AdamW: resumed as undisturbed, and refused with the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.interruptions import PowerCut, assert_same_outcome, cut_in, records
from support.method_overrides import overrides_of
from support.project import Train
from support.terminations import terminated

from fer.errors import ConfigError
from fer.models.backbones import tiny

FINE_TUNED = ["optim=adamw", "optim.frozen=[conv1,layer1]", "optim.layer_decay=0.7", "optim.frozen_batch_norm=true"]


@pytest.mark.parametrize("method", ["eac", "co_teaching", "dmue"])
def test_an_interrupted_fine_tuning_ends_as_an_uninterrupted_one(method: str, train: Train, tmp_path: Path) -> None:
    given = [*overrides_of(method), *FINE_TUNED]
    train(tmp_path / "whole", *given)
    with pytest.raises(SystemExit):
        train(tmp_path / "cut", *given, *terminated(1, 1))
    with pytest.raises(PowerCut):
        cut = [*cut_in(2)]
        train(tmp_path / "cut", *given, *cut)
    train(tmp_path / "cut", *given)
    assert_same_outcome(tmp_path / "cut", tmp_path / "whole")
    # A warm-up of one epoch, then half a cosine over two.
    assert [record["lr"] for record in records(tmp_path / "whole")] == pytest.approx([0.5e-4, 1e-4, 0.5e-4])


def test_a_frozen_backbone_keeps_the_weights_of_another_run(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "first", "method=ce", "trainer.max_epochs=1")
    everything = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    frozen = f"optim.frozen=[{','.join(everything)}]"
    train(tmp_path / "second", "method=ce", "trainer.max_epochs=2", f"backbone.weights={tmp_path / 'first'}", frozen)
    first, second = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("first", "second")
    )
    kept = [f"network.backbone.{name}" for name in tiny(width=8).state_dict()]
    assert all(torch.equal(first[name], second[name]) for name in kept)
    assert not torch.equal(first["network.classifier.weight"], second["network.classifier.weight"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("optim.layer_decay=0", r"optim\.layer_decay is 0; it must be a number above 0, at most 1"),
        ("optim.layer_decay=1.5", r"optim\.layer_decay is 1\.5"),
        ("optim.layer_decay=true", r"optim\.layer_decay is True"),
        ("optim.frozen=conv1", r"optim\.frozen is 'conv1'; it must be a list of names of the backbone's modules"),
        ("optim.frozen=[1]", r"optim\.frozen is \[1\]; it must be a list"),
        ("optim.frozen=[layer7]", r"optim\.frozen holds 'layer7'.*choose from conv1, bn1, layer1"),
        ("optim.frozen_batch_norm=some", r"optim\.frozen_batch_norm is 'some'; it must be true or false"),
    ],
)
def test_what_cannot_be_is_refused_with_the_key(given: str, says: str, train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        train(tmp_path / "run", given)
