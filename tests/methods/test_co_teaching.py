"""Co-teaching: each network learns from what the other finds easy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_methods import batch_of, build, build_configured
from support.transcription import assert_equal_to
from torch import Tensor
from torch.nn import functional as F

from fer.errors import ConfigError
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


@pytest.mark.parametrize("exponent", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("ramp", [1, 2, 10])
def test_the_released_schedule_is_a_ramp_that_ends_one_epoch_early(ramp: int, exponent: float) -> None:
    schedule = np.full(200, 0.3)
    schedule[:ramp] = np.linspace(0, 0.3**exponent, ramp)
    method = build(CoTeaching, noise_ratio=0.3, ramp=ramp, exponent=exponent)
    # The entry of the first trained epoch is the second.
    assert [method.drop_rate(epoch) for epoch in range(199)] == pytest.approx(schedule[1:].tolist())


def test_the_released_schedule_ends_in_the_ninth_epoch_and_jumps_after_the_ramp() -> None:
    method = build(CoTeaching, noise_ratio=0.3, ramp=10, exponent=2.0)
    rates = [method.drop_rate(epoch) for epoch in (0, 7, 8, 9, 100)]
    assert rates == pytest.approx([0.09 / 9, 0.09 * 8 / 9, 0.09, 0.3, 0.3])
    assert build(CoTeaching, noise_ratio=0.3, ramp=0).drop_rate(0) == pytest.approx(0.3)


def test_the_papers_schedule_starts_at_zero_and_stays() -> None:
    method = build(CoTeaching, noise_ratio=0.3, ramp=10, schedule="paper")
    assert [method.drop_rate(epoch) for epoch in (0, 5, 10, 11, 59)] == pytest.approx([0, 0.15, 0.3, 0.3, 0.3])
    assert build(CoTeaching, noise_ratio=0.3, ramp=0, schedule="paper").drop_rate(0) == pytest.approx(0.3)
    squared = build(CoTeaching, noise_ratio=0.5, ramp=1, exponent=2.0, schedule="paper")
    assert squared.drop_rate(4) == pytest.approx(0.25)


@pytest.mark.parametrize("epoch", [0, 4, 50])
def test_co_teaching_is_the_released_algorithm_without_its_second_division(epoch: int) -> None:
    schedule = np.full(200, 0.45)
    schedule[:10] = np.linspace(0, 0.45, 10)

    def released(twin: Any, batch: Any) -> Tensor:
        each = []
        for network in (twin.network, twin.second_network):
            pooled = network.backbone(VIEW).mean((2, 3))
            z = pooled @ network.classifier.weight.T + network.classifier.bias
            each.append([z[n].exp().sum().log() - z[n, label] for n, label in enumerate(batch.label.tolist())])
        count = int((1 - schedule[epoch + 1]) * 6)
        chosen = [sorted(range(6), key=lambda n, losses=losses: float(losses[n].detach()))[:count] for losses in each]
        total = sum(each[0][n] for n in chosen[1]) + sum(each[1][n] for n in chosen[0])
        # The released update divides by the count once more.
        return torch.as_tensor(total / count)

    method = build(CoTeaching, noise_ratio=0.45, ramp=10)
    trainer = {"max_epochs": 200, "current_epoch": epoch, "callbacks": [], "world_size": 1}
    method._trainer = type("Trainer", (), trainer)()
    assert_equal_to(released, method, batch_of(VIEW))


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
        ({"noise_ratio": 0.1, "exponent": 0.0}, "method.exponent is 0.0"),
        ({"noise_ratio": 0.1, "schedule": "cosine"}, "method.schedule is 'cosine'"),
        ({"noise_ratio": 0.1, "evaluated": "best"}, "method.evaluated is 'best'"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(CoTeaching, **values)
