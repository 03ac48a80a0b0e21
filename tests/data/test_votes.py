"""Votes of several annotators: as soft labels in training, and as further right answers in tests."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.project import Train
from support.small_methods import batch_of, build

from fer.errors import ConfigError
from fer.methods.ce import CrossEntropy
from fer.methods.core.metrics import accepted_label
from fer.methods.eac import EAC
from fer.methods.label_smoothing import LabelSmoothing
from fer.methods.lde import LDE
from fer.methods.pdls import PDLS

NAMES = ["a", "b", "c", "d", "e"]
PRIOR = [[0.6 if i == j else 0.1 for j in range(5)] for i in range(5)]


@pytest.fixture(scope="module")
def ferplus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 faces with votes: the second class gets 4 of 10 of every face."""
    root = tmp_path_factory.mktemp("ferplus")
    rng = np.random.default_rng(0)
    for folder in ("FER2013Train", "FER2013Valid", "FER2013Test"):
        (root / folder).mkdir()
        with (root / folder / "label.csv").open("w", newline="") as stream:
            for number in range(24):
                votes = [0] * 10
                votes[number % 7] += 6
                votes[(number + 1) % 7] += 4
                Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8)).save(root / folder / f"fer{number}.png")
                csv.writer(stream).writerow([f"fer{number}.png", *votes])
    return root


def small(root: Path, *more: str) -> list[str]:
    return [
        "data=ferplus", f"data.root={root}", "noise=none", "noise.ratio=0", "backbone=tiny", "backbone.width=8",
        "augment.size=32",
        "batch_size=8", "trainer.max_epochs=1", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "values"),
    [
        (CrossEntropy, {}),
        (LabelSmoothing, {"share": 0.2}),
        (PDLS, {"classes": NAMES, "prior": PRIOR, "alpha": 0.7}),
        (LDE, {"weight": 0.0}),
    ],
)
def test_votes_are_a_mean_over_labels(method: Any, values: dict[str, Any]) -> None:
    """The loss is linear in the target: with votes it is the mean of the losses of all labels, weighted by votes."""
    view = torch.rand(6, 3, 32, 32, dtype=torch.float64)
    shares = torch.rand(6, 5, dtype=torch.float64)
    votes = shares / shares.sum(1, keepdim=True)
    built = build(method, soft_labels=True, **values).eval()
    batch = batch_of(view)
    with torch.no_grad():
        found = float(built.loss(batch._replace(votes=votes)).total)
        logits = built.network(view)[1]
    one_hot = torch.eye(5, dtype=torch.float64)
    wanted = 0.0
    for i in range(6):
        for label in range(5):
            target = one_hot[label]
            if method is LabelSmoothing:
                target = 0.8 * target + 0.2 / 5
            elif method is PDLS:
                target = 0.7 * target + 0.3 * torch.tensor(PRIOR, dtype=torch.float64)[label]
            wanted -= float(votes[i, label] * (target * logits[i].log_softmax(0)).sum()) / 6
    assert found == pytest.approx(wanted, rel=1e-6)
    hard = batch._replace(votes=one_hot[batch.label])
    with torch.no_grad():
        assert float(built.loss(hard).total) == pytest.approx(float(built.loss(batch).total), rel=1e-6)


def test_methods_that_learn_from_one_label_refuse_votes() -> None:
    with pytest.raises(ValueError, match="soft_labels=true: EAC learns from one label per face"):
        build(EAC, soft_labels=True)


def test_enough_votes_make_a_class_right() -> None:
    probabilities = torch.eye(4)[[0, 1, 2, 3]]
    votes = torch.tensor([[0.3, 0.7, 0, 0], [0.29, 0.2, 0.51, 0], [0, 0, 1.0, 0], [0.6, 0.1, 0, 0.3]])
    label = torch.tensor([1, 2, 2, 0])
    assert accepted_label(probabilities, label, votes, 0.3).tolist() == [0, 2, 2, 3]


def test_a_run_learns_from_votes_and_is_tested_by_any_of_them(ferplus: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "hard", *small(ferplus, "method=ce"))
    train(tmp_path / "soft", *small(ferplus, "method=ce", "soft_labels=true"))
    train(tmp_path / "any", *small(ferplus, "method=ce", "evaluation.labels=any"))
    hard, soft, either = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("hard", "soft", "any"))
    assert soft["last_epoch"]["train/loss"] != hard["last_epoch"]["train/loss"]
    assert either["last_epoch"]["train/loss"] == hard["last_epoch"]["train/loss"]
    assert either["metrics"]["test/acc"] > hard["metrics"]["test/acc"] - 1e-12
    assert either["evaluation"]["labels"] == "any" and either["evaluation"]["share"] == 0.3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["soft_labels=true", "noise=symmetric", "noise.ratio=0.5"], "would tell methods the true labels"),
        (["soft_labels=true", "method=eac"], "EAC learns from one label per face"),
        (["evaluation.share=0", "evaluation.labels=any"], "evaluation.share is 0"),
        (["evaluation.labels=all"], "evaluation.labels is 'all'; it must be 'majority' or 'any'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    values: list[str], said: str, ferplus: Path, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        train(tmp_path / "run", *small(ferplus, "method=ce", *values))


@pytest.mark.parametrize("value", ["soft_labels=true", "evaluation.labels=any"])
def test_data_without_votes_is_refused(value: str, train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{value} needs votes of several annotators, which folder does not have"):
        train(tmp_path / "run", "method=ce", "noise=none", "noise.ratio=0", value)
