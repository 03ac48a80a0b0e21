"""Weights of classes and adjusted logits, against formulas written out sample by sample."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.small_methods import CLASSES, build, build_configured, with_views
from torch.nn import functional as F

from fer.errors import ConfigError
from fer.methods.ce import CrossEntropy
from fer.methods.core.imbalance import (
    PriorCrossEntropy,
    balanced_weights,
    class_counts,
    effective_weights,
    logit_offsets,
)
from fer.methods.eac import EAC

COUNTS = [17, 1, 0, 6]
LABELS = torch.tensor([label for label, count in enumerate(COUNTS) for _ in range(count)])
GIVEN = [2, 1, 1, 1, 1]
"""Samples by class in ``small_methods``."""


def test_balanced_weights_make_classes_weigh_alike() -> None:
    weights = balanced_weights(class_counts(LABELS, 4)).tolist()
    assert weights == pytest.approx([24 / (3 * 17), 24 / 3, 0, 24 / (3 * 6)])
    assert sum(w * n for w, n in zip(weights, COUNTS, strict=True)) == pytest.approx(24)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.9999])
def test_effective_weights_follow_the_effective_number(beta: float) -> None:
    effective = [sum(beta**k for k in range(n)) for n in COUNTS]  # the paper's series, equation 1
    inverse = [1 / number if number else 0 for number in effective]
    expected = [3 * value / sum(inverse) for value in inverse]
    assert effective_weights(class_counts(LABELS, 4), beta).tolist() == pytest.approx(expected)


def test_effective_weights_lie_between_none_and_the_inverse_frequency() -> None:
    counts = class_counts(LABELS, 4)
    assert effective_weights(counts, 0.0).tolist() == [1, 1, 0, 1]
    balanced = balanced_weights(counts)
    torch.testing.assert_close(effective_weights(counts, 1 - 1e-9), 3 * balanced / balanced.sum(), rtol=1e-6, atol=0)


def test_offsets_are_the_logarithms_of_the_shares() -> None:
    offsets = logit_offsets(class_counts(LABELS, 4), 1.5).tolist()
    assert offsets == pytest.approx([1.5 * math.log(17 / 24), 1.5 * math.log(1 / 24), 0, 1.5 * math.log(6 / 24)])


@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": "balanced"},
        {"class_weights": "effective", "beta": 0.9},
        {"logit_adjustment": 1.0},
        {"class_weights": "balanced", "logit_adjustment": 0.5},
    ],
)
def test_the_loss_is_the_mean_over_samples(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4, requires_grad=True), torch.tensor([0, 0, 1, 3, 3, 0])
    loss = PriorCrossEntropy(LABELS, 4, **options)
    shares, tau = [n / 24 for n in COUNTS], options.get("logit_adjustment", 0)
    weights = {
        "balanced": [24 / (3 * n) if n else 0 for n in COUNTS],
        "effective": effective_weights(class_counts(LABELS, 4), 0.9).tolist(),
    }.get(options.get("class_weights", ""), [1.0] * 4)
    terms = []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        adjusted = [math.exp(v) * (share or 1) ** tau for v, share in zip(z, shares, strict=True)]
        terms.append(-weights[y] * math.log(adjusted[y] / sum(adjusted)))
    total = loss(logits, labels)
    assert total.item() == pytest.approx(sum(terms) / 6, rel=1e-5)
    total.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert (logits.grad[:, 2] > 0).all(), "a class without samples is ruled out"


def test_votes_weigh_the_classes_that_they_name() -> None:
    logits, votes = torch.tensor([[0.5, -1.0, 2.0, 0.0]]), torch.tensor([[0.5, 0.25, 0.0, 0.25]])
    loss = PriorCrossEntropy(LABELS, 4, class_weights="balanced", logit_adjustment=1.0)
    of_labels = [loss(logits, torch.tensor([label])) * votes[0, label] for label in range(4)]
    torch.testing.assert_close(loss(logits, votes), sum(of_labels, torch.zeros(())))


@pytest.mark.parametrize("method", [CrossEntropy, EAC])
def test_by_default_nothing_is_changed(method: Any) -> None:
    built = build(method)
    batch = with_views(built)
    loss = built.loss(batch)
    assert torch.equal(loss.parts.get("loss_cls", loss.total), F.cross_entropy(loss.logits, batch.label))
    assert not [name for name in built.state_dict() if "cross_entropy" in name]


@pytest.mark.parametrize("method", [CrossEntropy, EAC])
def test_training_adjusts_the_logits_and_a_test_does_not(method: Any) -> None:
    built, plain = build(method, logit_adjustment=2.0), build(method)
    batch = with_views(built)
    loss, expected = built.loss(batch), plain.loss(batch)
    assert torch.equal(loss.logits, expected.logits)
    prior = torch.tensor(GIVEN, dtype=torch.float64) / sum(GIVEN)
    scores = expected.logits.exp() * prior**2
    p = (scores / scores.sum(1, keepdim=True)).gather(1, batch.label[:, None])
    torch.testing.assert_close(loss.parts.get("loss_cls", loss.total), -p.log().mean(), rtol=1e-6, atol=0)
    assert torch.equal(built.eval().classify(batch.view), plain.eval().classify(batch.view))
    assert built.state_dict().keys() == plain.state_dict().keys()


def test_cross_entropy_weighs_classes_by_the_given_labels() -> None:
    built = build(CrossEntropy, class_weights="balanced")
    batch = with_views(built)
    loss = built.loss(batch)
    weights = torch.tensor([6 / (CLASSES * count) for count in GIVEN], dtype=torch.float64)
    expected = (weights[batch.label] * F.cross_entropy(loss.logits, batch.label, reduction="none")).mean()
    torch.testing.assert_close(loss.total, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        (CrossEntropy, {"class_weights": "inverse"}, "method.class_weights is 'inverse'; it must be balanced or eff"),
        (CrossEntropy, {"class_weight_beta": 1.0}, "method.class_weight_beta is 1.0; it must be"),
        (CrossEntropy, {"logit_adjustment": -1.0}, "method.logit_adjustment is -1.0; it must be a number of 0 or more"),
        (EAC, {"logit_adjustment": -1.0}, "method.logit_adjustment is -1.0"),
    ],
)
def test_other_values_are_refused(method: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_configured(method, **values)
