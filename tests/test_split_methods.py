"""DivideMix splits the training set and treats the parts unlike, against its formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_methods import CLASSES, batch_of, build
from torch.nn import functional as F

from fer.methods.dividemix import DivideMix, sharpen, small_loss_probability

VIEWS = tuple(torch.randn(2, 6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))


def in_epoch(method: Any, epoch: int, epochs: int = 100) -> Any:
    """In evaluation mode, so that a second pass gives the same."""
    trainer = {"max_epochs": epochs, "current_epoch": epoch, "callbacks": [], "world_size": 1}
    method._trainer = type("Trainer", (), trainer)()
    return method.eval()


# DivideMix


def reference_mixture(losses: list[float]) -> list[float]:
    """Ten steps of EM for two Gaussians, by plain loops."""
    x = [(v - min(losses)) / (max(losses) - min(losses)) for v in losses]
    mean, variance, share = [0.0, 1.0], [0.1, 0.1], [0.5, 0.5]

    def posteriors() -> list[list[float]]:
        rows = []
        for v in x:
            density = [
                share[k] * math.exp(-((v - mean[k]) ** 2) / (2 * variance[k])) / math.sqrt(variance[k]) for k in (0, 1)
            ]
            rows.append([d / sum(density) for d in density])
        return rows

    for _ in range(10):
        rows = posteriors()
        for k in (0, 1):
            total = sum(row[k] for row in rows)
            mean[k] = sum(row[k] * v for row, v in zip(rows, x, strict=True)) / total
            variance[k] = sum(row[k] * (v - mean[k]) ** 2 for row, v in zip(rows, x, strict=True)) / total + 5e-4
            share[k] = total / len(x)
    return [row[0 if mean[0] <= mean[1] else 1] for row in posteriors()]


def test_small_losses_are_told_from_large_ones() -> None:
    generator = np.random.default_rng(0)
    losses = np.concatenate([generator.normal(0.3, 0.1, 70), generator.normal(2.5, 0.6, 30)])
    w = small_loss_probability(torch.tensor(losses))
    assert w.tolist() == pytest.approx(reference_mixture(losses.tolist()), abs=1e-9)
    assert (w[:70] > 0.5).all() and (w[70:] < 0.5).float().mean() > 0.9


def test_equal_losses_give_probabilities() -> None:
    w = small_loss_probability(torch.full((5,), 0.7))
    assert w.isfinite().all() and ((w >= 0) & (w <= 1)).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 2))
def test_sharpening_raises_to_a_power(seed: int, temperature: float) -> None:
    p = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(1)
    for row, sharp in zip(p.tolist(), sharpen(p, temperature).tolist(), strict=True):
        powered = [v ** (1 / temperature) for v in row]
        assert sharp == pytest.approx([v / sum(powered) for v in powered])


def test_dividemix_refines_labels_by_who_is_trusted() -> None:
    method = build(DivideMix, temperature=0.5)
    own, both = torch.randn(2, 2, CLASSES, dtype=torch.float64).softmax(2)
    targets = method.targets(torch.tensor([0.8, 0.3]), torch.tensor([2, 1]), own, both)
    labelled = 0.2 * own[0]
    labelled[2] += 0.8
    torch.testing.assert_close(targets[0], labelled**2 / (labelled**2).sum(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(targets[1], both[1] ** 2 / (both[1] ** 2).sum())


@pytest.mark.parametrize("prior", ["uniform", "given", "none"])
def test_dividemix_trains_each_network_by_mixmatch_on_the_others_split(prior: str) -> None:
    method = in_epoch(build(DivideMix, warm_up=10, ramp=16, prior=prior), 18)
    method.clean.copy_(torch.tensor([[0.9, 0.8, 0.1, 0.2, 0.7, 0.3], [0.1, 0.9, 0.6, 0.4, 0.2, 0.95]]))
    batch = batch_of(VIEWS)
    networks = (method.network, method.second_network)
    p = [torch.stack([net(view)[1].softmax(1) for view in VIEWS]).mean(0) for net in networks]
    shares = torch.full((CLASSES,), 1 / CLASSES, dtype=torch.float64)
    if prior == "given":
        shares = F.one_hot(batch.label).double().mean(0)
    torch.manual_seed(4)
    expected = 0.0
    for network, own, w in zip(networks, p, method.clean.flip(0).double(), strict=True):
        rows = []
        for i in range(6):
            row = (
                w[i] * F.one_hot(batch.label[i], CLASSES) + (1 - w[i]) * own[i] if w[i] > 0.5 else (p[0] + p[1])[i] / 2
            )
            rows.append(row**2 / (row**2).sum())
        target = torch.stack(rows + rows)
        labelled = torch.cat([w > 0.5, w > 0.5])
        share = torch.distributions.Beta(4.0, 4.0).sample()
        share = max(share, 1 - share)
        partner = torch.randperm(12)
        images = torch.cat(VIEWS)
        logits = network(share * images + (1 - share) * images[partner])[1]
        mixed = share * target + (1 - share) * target[partner]
        ce = -(mixed * logits.log_softmax(1)).sum(1)[labelled].mean()
        mse = (logits.softmax(1) - mixed).square()[~labelled].mean()
        expected = expected + ce + 25 * (18 - 10) / 16 * mse
        if prior != "none":
            expected = expected + (shares * (shares / logits.softmax(1).mean(0)).log()).sum()
    torch.manual_seed(4)
    torch.testing.assert_close(method.loss(batch).total, expected, rtol=1e-6, atol=1e-6)


def test_dividemix_warms_up_and_ramps() -> None:
    method = in_epoch(build(DivideMix, warm_up=10, ramp=16), 9)
    batch = batch_of(VIEWS)
    expected = sum(F.cross_entropy(net(VIEWS[0])[1], batch.label) for net in (method.network, method.second_network))
    torch.testing.assert_close(method.loss(batch).total, expected)
    assert [method.weight_of_unlabelled(epoch) for epoch in (10, 18, 26, 80)] == pytest.approx([0, 12.5, 25, 25])


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        (DivideMix, {"ramp": -1}, "method.ramp is -1"),
        (DivideMix, {"threshold": 1.5}, "method.threshold is 1.5"),
        (DivideMix, {"temperature": 0.0}, "method.temperature is 0.0"),
        (DivideMix, {"prior": "true"}, "method.prior is 'true'"),
    ],
)
def test_values_out_of_range_are_refused(method: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(method, **values)
