"""RankBatches: every row once, whatever the number of rows, the batch size and the ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from fer.data.loading.samplers import ClassDraw, RankBatches

ROWS = st.integers(0, 120).map(lambda count: np.random.default_rng(count).permutation(1000)[:count])
SHARES, WORLDS = st.integers(1, 9), st.integers(1, 8)
SHUFFLE_SEEDS = st.one_of(st.none(), st.integers(0, 2**40))
EPOCHS = st.integers(0, 1000)

Rows = NDArray[np.int64]


def steps(rows: Rows, batch_size: int, seed: int | None, epoch: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    batches = RankBatches(rows, batch_size, shuffle_seed=seed, rank=rank, world_size=world)
    batches.set_epoch(epoch)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    return drawn


@settings(max_examples=40, deadline=None)
@given(ROWS, SHARES, WORLDS, EPOCHS)
def test_every_row_is_evaluated_once_over_all_ranks(rows: Rows, share: int, world: int, epoch: int) -> None:
    ranks = [steps(rows, share * world, None, epoch, rank, world) for rank in range(world)]
    drawn = [row for rank in ranks for step in rank for row in step]
    assert sorted(drawn) == sorted(rows.tolist())
    assert all(type(row) is int for row in drawn)
    for rank in ranks:
        assert all(rank) or rank == [[]], "only who has nothing to evaluate is handed an empty batch"
        assert bool(rank) == bool(len(rows)), "every rank takes part"


@settings(max_examples=40, deadline=None)
@given(ROWS.filter(lambda rows: len(rows) >= 16), SHARES, WORLDS, st.integers(0, 2**40), EPOCHS)
def test_ranks_together_see_in_each_training_step_what_one_device_sees(
    rows: Rows, share: int, world: int, seed: int, epoch: int
) -> None:
    ranks = [steps(rows, share * world, seed, epoch, rank, world) for rank in range(world)]
    alone = steps(rows, share * world, seed, epoch)
    assert all(len(step) == share * world for step in alone[:-1])
    if len(alone[-1]) < min(2, share) * world:
        alone.pop()  # too few for every rank
    for one_device, *shares in zip(alone, *ranks, strict=True):
        assert sorted(row for part in shares for row in part) == sorted(one_device)
        assert all(shares), "every rank takes part in every step"
        assert max(map(len, shares)) - min(map(len, shares)) <= 1, "no rank has more to do than another"


@settings(max_examples=40, deadline=None)
@given(ROWS, SHARES, SHARES, SHUFFLE_SEEDS, EPOCHS)
def test_the_order_follows_from_seed_and_epoch_alone(
    rows: Rows, batch_size: int, other_size: int, seed: int | None, epoch: int
) -> None:
    if len(rows) < 2:
        seed = None  # nothing to train on
    order = [row for step in steps(rows, batch_size, seed, epoch) for row in step]
    other = [row for step in steps(rows, other_size, seed, epoch) for row in step]
    assert all(one == another for one, another in zip(order, other, strict=False))
    assert min(len(order), len(other)) >= len(rows) - (seed is not None), "one sample at most is left over"
    if seed is None:
        assert order == rows.tolist()


def test_another_seed_or_epoch_gives_another_order() -> None:
    rows = np.arange(100)
    orders = [tuple(steps(rows, 100, seed, epoch)[0]) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    assert tuple(rows) not in orders


def test_a_resumed_epoch_continues_the_sequence() -> None:
    rows = np.arange(50)
    batches = RankBatches(rows, 8, shuffle_seed=1)
    sequence = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        sequence.append(list(batches))
    assert steps(rows, 8, 1, 2) == sequence[2]
    assert list(batches) == sequence[2], "iterating twice in one epoch repeats it"
    assert batches.rows.tolist() == list(range(50)), "the rows themselves stay as they are"


@pytest.mark.parametrize(("batch_size", "world"), [(32, 3), (2, 4), (0, 1), (-4, 2)])
def test_an_uneven_batch_size_is_refused_with_what_to_choose(batch_size: int, world: int) -> None:
    with pytest.raises(ValueError, match=rf"batch_size={batch_size} .*evenly among {world}; choose a multiple of"):
        RankBatches(np.arange(10), batch_size, world_size=world)


# Draws by class

COUNTS = {0: 170, 2: 20, 5: 10}
"""Samples by label; other classes have none."""
MEMBERS = np.repeat([*COUNTS], [*COUNTS.values()])
PLACES = 1000 + np.random.default_rng(0).permutation(len(MEMBERS))
"""Row of each sample."""
LABEL_OF = dict(zip(PLACES.tolist(), MEMBERS.tolist(), strict=True))


def drawn(epoch: int, epochs: int | None = None, rank: int = 0, world: int = 1, seed: int = 3) -> list[list[int]]:
    draw = ClassDraw(PLACES, MEMBERS, epochs=epochs)
    batches = RankBatches(PLACES, 12, shuffle_seed=seed, draw=draw, rank=rank, world_size=world)
    batches.set_epoch(epoch)
    return list(batches)


@pytest.mark.parametrize(
    ("epochs", "start", "shares"),
    [
        (None, 0, [1 / 3, 1 / 3, 1 / 3]),
        (40_000, 0, [0.85, 0.1, 0.05]),
        (40_000, 20_000, [(0.85 + 1 / 3) / 2, (0.1 + 1 / 3) / 2, (0.05 + 1 / 3) / 2]),
        (10_200, 10_160, [1 / 3, 1 / 3, 1 / 3]),
    ],
    ids=["balanced", "progressive_first", "progressive_middle", "progressive_last"],
)
def test_classes_and_their_samples_are_drawn_as_often_as_stated(
    epochs: int | None, start: int, shares: list[float]
) -> None:
    found = np.array([row for epoch in range(start, start + 40) for step in drawn(epoch, epochs) for row in step])
    labels = np.array([LABEL_OF[row] for row in found.tolist()])
    counts = [int((labels == label).sum()) for label in COUNTS]
    assert sum(counts) == len(found) == 40 * 200, "an epoch is as long as one that shows every sample once"
    assert chisquare(counts, np.array(shares) * len(found)).pvalue > 0.01
    for label in COUNTS:
        _, times = np.unique(found[labels == label], return_counts=True)
        assert len(times) == COUNTS[label] and chisquare(times).pvalue > 0.01


def test_every_position_of_an_epoch_is_drawn_alike() -> None:
    first = [LABEL_OF[drawn(epoch)[0][0]] for epoch in range(600)]
    assert chisquare([first.count(label) for label in COUNTS]).pvalue > 0.01


def test_class_probabilities_go_from_the_labels_shares_towards_equal_ones() -> None:
    draw = ClassDraw(PLACES, MEMBERS, epochs=4)
    for epoch in range(4):
        expected = [(1 - epoch / 4) * n / 200 + epoch / 4 / 3 for n in COUNTS.values()]
        assert draw.probabilities(epoch).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [None, 10])
def test_ranks_together_draw_what_one_device_draws(epochs: int | None) -> None:
    for epoch in (0, 7):
        alone, ranks = drawn(epoch, epochs), [drawn(epoch, epochs, rank, 3) for rank in range(3)]
        for one_device, *shares in zip(alone, *ranks, strict=True):
            assert [row for place in itertools.zip_longest(*shares) for row in place if row is not None] == one_device


@pytest.mark.parametrize("epochs", [None, 10])
def test_a_draw_follows_from_seed_and_epoch_and_goes_on_amid_an_epoch(epochs: int | None) -> None:
    whole = drawn(5, epochs)
    assert drawn(5, epochs) == whole
    assert len({str(steps) for steps in (whole, drawn(6, epochs), drawn(5, epochs, seed=4))}) == 3
    batches = RankBatches(PLACES, 12, shuffle_seed=3, draw=ClassDraw(PLACES, MEMBERS, epochs=epochs))
    batches.set_epoch(5)
    batches.leave_out(4, epoch=5)
    assert list(batches) == whole[4:]
