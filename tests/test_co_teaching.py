"""Co-teaching: each network learns from what the other finds easy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_methods import batch_of, build
from torch.nn import functional as F

from fer.methods.co_teaching import CoTeaching, smallest_losses

VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=30),
    st.integers(0, 100),
    st.booleans(),
)
def test_the_smallest_losses_are_kept(samples: list[tuple[int, int]], percent: int, per_class: bool) -> None:
    losses, labels = (torch.tensor(values) for values in zip(*samples, strict=True))
    kept = smallest_losses(losses.double(), labels, percent / 100, per_class=per_class).tolist()
    groups = sorted({*labels.tolist()}) if per_class else [None]
    for group in groups:
        members = [i for i, (_, label) in enumerate(samples) if group in (None, label)]
        count = max(1, (100 - percent) * len(members) // 100)
        ranked = sorted(members, key=lambda i: (samples[i][0], i))
        assert [i for i in members if kept[i]] == sorted(ranked[:count])


def test_the_share_left_out_rises_to_the_noise_ratio() -> None:
    method = build(CoTeaching, noise_ratio=0.3, ramp=10)
    assert [method.drop_rate(epoch) for epoch in (0, 5, 10, 11, 59)] == pytest.approx([0, 0.15, 0.3, 0.3, 0.3])
    assert build(CoTeaching, noise_ratio=0.3, ramp=0).drop_rate(0) == pytest.approx(0.3)
    assert build(CoTeaching, noise_ratio=0.5, ramp=1, exponent=2.0).drop_rate(4) == pytest.approx(0.25)


def test_each_network_is_trained_on_the_others_choice_alone() -> None:
    method = build(CoTeaching, noise_ratio=0.5, ramp=0)
    method.eval()
    batch = batch_of(VIEW)
    losses = [F.cross_entropy(z, batch.label, reduction="none") for z in method.logits_of_both(VIEW)]
    chosen = [each.argsort()[: math.floor(0.5 * 6)] for each in losses]
    loss = method.loss(batch)
    torch.testing.assert_close(loss.parts["loss_first"], losses[0][chosen[1]].mean())
    torch.testing.assert_close(loss.parts["loss_second"], losses[1][chosen[0]].mean())
    assert {*chosen[0].tolist()} != {*chosen[1].tolist()}
    of_second = torch.autograd.grad(loss.parts["loss_first"], [*method.second_network.parameters()], allow_unused=True)
    assert not any(gradient.any() for gradient in of_second)


def test_what_is_evaluated_can_be_chosen() -> None:
    logits = {}
    for evaluated in ("first", "second", "mean"):
        method = build(CoTeaching, noise_ratio=0.3, evaluated=evaluated)
        method.eval()
        logits[evaluated] = method.classify(VIEW)
    assert not torch.allclose(logits["first"], logits["second"])
    torch.testing.assert_close(logits["mean"], (logits["first"] + logits["second"]) / 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"noise_ratio": None}, "method.noise_ratio is None"),
        ({"noise_ratio": 1.0}, "method.noise_ratio is 1.0"),
        ({"noise_ratio": 0.1, "ramp": -1}, "method.ramp is -1"),
        ({"noise_ratio": 0.1, "exponent": 0.0}, "method.exponent 0.0"),
        ({"noise_ratio": 0.1, "evaluated": "best"}, "method.evaluated is 'best'"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(CoTeaching, **values)
