"""The data module: samples that are trained on, samples that are held out, and refused settings."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from support.data_modules import module
from support.project import Train

from fer.data.loading.datamodule import FaceDataModule
from fer.data.loading.samplers import RankBatches
from fer.views.batch import Batch


def samples(made: FaceDataModule) -> set[str]:
    return {made.table.file_names[row] for row in made.train.rows}


def test_fewer_samples_are_among_more_of_them(shapes: Path) -> None:
    found = [samples(module(shapes, train_samples=count)) for count in (1, 20, 59, 60, None)]
    assert [len(names) for names in found] == [1, 20, 59, 60, 60]
    assert all(fewer <= more for fewer, more in itertools.pairwise(found))
    assert samples(module(shapes, train_samples=20, seed=7)) == found[1], "whatever the seed"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.03, 0.5), seed=st.integers(0, 2**32))
def test_held_out_samples_stand_for_every_given_label(shapes: Path, share: float, seed: int) -> None:
    made = module(shapes, protocol="holdout", holdout_share=share, seed=seed)
    assert sorted([*made.fit_rows, *made.holdout_rows]) == [*range(60)]
    for label in range(3):
        members = made.train.given == label
        assert members[made.holdout_rows].sum() == round(share * members.sum())
    assert np.array_equal(
        made.holdout_rows, module(shapes, protocol="holdout", holdout_share=share, seed=seed).holdout_rows
    )


def test_only_samples_that_are_not_held_out_are_drawn_by_their_given_labels(shapes: Path) -> None:
    made = module(shapes, protocol="holdout", holdout_share=0.4, sampling="balanced")
    batches = made.train_dataloader().batch_sampler
    assert isinstance(batches, RankBatches)
    drawn: list[int] = []
    for epoch in range(60):
        batches.set_epoch(epoch)
        drawn += [row for step in batches for row in step]
    assert {*drawn} == {*made.fit_rows.tolist()}
    assert chisquare(np.bincount(made.train.given[drawn])).pvalue > 0.01


def test_every_image_comes_with_its_position_and_its_given_label(shapes: Path) -> None:
    made = module(shapes)
    whole = made.train.__getitems__([*range(60)])
    for position in (0, 17, 59):
        one = made.train[position]
        assert torch.equal(one.image, whole.image[position : position + 1])
        assert (int(one.label), int(one.index)) == (made.train.given[position], position)
    assert 0 < (made.train.given != made.train.clean).sum() < 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_samples": 0}, "train_samples is 0; it must be 1 or more"),
        ({"train_samples": 61}, "train_samples is 61, but there are 60"),
        ({"protocol": "best"}, "protocol is 'best'; choose one of last5, holdout"),
        ({"holdout_share": 0.6}, "holdout_share is 0.6; it must lie in"),
        ({"holdout_share": 0.0}, "holdout_share is 0.0"),
        ({"protocol": "holdout", "holdout_share": 0.01}, "holdout_share=0.01 of 60 samples leaves none to hold out"),
    ],
)
def test_what_cannot_be_served_is_refused(options: dict[str, Any], message: str, shapes: Path) -> None:
    with pytest.raises(ValueError, match=message):
        module(shapes, **options)


def test_every_epoch_of_a_training_has_an_order_of_its_own(train: Train, tmp_path: Path) -> None:
    """Lightning finds the sampler in the loader and tells it the epoch."""
    shown = tmp_path / "shown.txt"
    train(tmp_path / "run", "+callbacks.shown._target_=test_datamodule.NoteOrder", f"+callbacks.shown.file={shown}")
    orders = [[int(row) for row in line.split()] for line in shown.read_text().splitlines()]
    assert len(orders) == 3
    assert all(sorted(order) == [*range(60)] for order in orders)
    assert len({tuple(order) for order in orders}) == 3


class NoteOrder(L.Callback):
    """Writes a line per epoch, of the samples in the order in which they are trained on."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        with self.file.open("a") as stream:
            print(*batch.index.tolist(), end="\n" if trainer.is_last_batch else " ", file=stream)
