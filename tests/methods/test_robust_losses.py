"""Losses that distrust labels, against their formulas written out in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_methods import CLASSES, batch_of, build, build_configured, raw_images
from torch import Tensor
from torch.nn import functional as F

from fer.errors import ConfigError
from fer.methods.core.method import Loss
from fer.methods.eac import EAC
from fer.methods.elr import ELR
from fer.methods.gce import GCE, generalized_cross_entropy
from fer.methods.label_smoothing import LabelSmoothing
from fer.methods.mixup import Mixup
from fer.methods.nla import NLA, gaussian_weight
from fer.methods.pdls import PDLS
from fer.methods.sce import SCE, reverse_cross_entropy
from fer.methods.vac import VAC

SEEDS = st.integers(0, 2**32 - 1)
FEATURES = torch.empty(0)
"""These losses do not look at the feature map."""


def some_logits(seed: int = 0, count: int = 6, classes: int = CLASSES) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, classes, dtype=torch.float64, generator=generator)).requires_grad_()


def classified(method: Any, logits: Tensor) -> Loss:
    loss: Loss = method.classification(FEATURES, logits, batch_of(raw_images()))
    return loss


def probabilities(logits: Tensor) -> list[list[float]]:
    rows = logits.tolist()
    return [[math.exp(z) / sum(math.exp(other) for other in row) for z in row] for row in rows]


LABELS = (torch.arange(6) % CLASSES).tolist()


@given(SEEDS, st.floats(0, 1))
def test_label_smoothing_spreads_a_share_of_each_label(seed: int, share: float) -> None:
    logits = some_logits(seed)
    expected = 0.0
    for p, label in zip(probabilities(logits), LABELS, strict=True):
        for k in range(CLASSES):
            target = (1 - share) * (k == label) + share / CLASSES
            expected -= target * math.log(p[k]) / len(LABELS)
    assert float(classified(build(LabelSmoothing, share=share), logits).total) == pytest.approx(expected)


NAMES = ["cold", "dry", "hot", "mild", "wet"]
PRIOR = [[0.5, 0.1, 0.2, 0.1, 0.05] if i == 0 else [0.6 if i == j else 0.1 for j in range(5)] for i in range(5)]


@given(SEEDS, st.floats(0, 1), st.permutations(range(5)))
def test_pdls_mixes_labels_with_the_prior_in_any_order_of_classes(seed: int, alpha: float, order: list[int]) -> None:
    logits = some_logits(seed)
    names = [NAMES[i] for i in order]
    prior = [[PRIOR[i][j] for j in order] for i in order]
    expected = 0.0
    for p, label in zip(probabilities(logits), LABELS, strict=True):
        for k in range(CLASSES):
            target = alpha * (k == label) + (1 - alpha) * PRIOR[label][k]
            expected -= target * math.log(p[k]) / len(LABELS)
    method = build(PDLS, class_names=NAMES, classes=names, prior=prior, alpha=alpha)
    # The prior is kept in float32.
    assert float(classified(method, logits).total) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"classes": ["cold", "dry", "hot", "mild", "icy"], "prior": PRIOR}, "method.classes"),
        ({"classes": NAMES, "prior": PRIOR[:4]}, "5 rows of 5"),
        ({"classes": NAMES, "prior": [[0.5] * 5, *PRIOR[1:]]}, "row of cold"),
        ({"classes": NAMES, "prior": PRIOR, "alpha": 1.5}, "method.alpha is 1.5"),
    ],
)
def test_pdls_refuses_a_prior_that_does_not_fit(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(PDLS, class_names=tuple(NAMES), **values)


@given(SEEDS, st.floats(0.05, 1))
def test_gce_is_the_box_cox_transform_of_the_probability_of_the_label(seed: int, q: float) -> None:
    logits = some_logits(seed)
    expected = [(1 - p[label] ** q) / q for p, label in zip(probabilities(logits), LABELS, strict=True)]
    assert float(classified(build(GCE, q=q), logits).total) == pytest.approx(sum(expected) / 6)


@given(st.floats(1e-3, 1))
def test_gce_goes_from_cross_entropy_to_absolute_error(p: float) -> None:
    probability = torch.tensor(p, dtype=torch.float64)
    assert float(generalized_cross_entropy(probability, 1e-7)) == pytest.approx(-math.log(p), abs=1e-5)
    assert float(generalized_cross_entropy(probability, 1.0)) == pytest.approx(1 - p)


def test_gce_has_a_gradient_where_the_label_seems_impossible() -> None:
    logits = torch.tensor([[200.0, 0, 0, 0, 0]] * 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(classified(build(GCE), logits).total, logits)
    assert gradient.isfinite().all()


def test_what_gce_leaves_out_has_no_gradient() -> None:
    logits, method = some_logits(), build(GCE)
    method.kept[2] = 0
    loss = classified(method, logits)
    (gradient,) = torch.autograd.grad(loss.total, logits)
    assert (gradient.abs().sum(1) > 0).tolist() == [True, True, False, True, True, True]
    assert float(loss.parts["kept"]) == pytest.approx(5 / 6)


@given(SEEDS, st.floats(0, 6), st.floats(0, 1))
def test_sce_adds_the_reverse_cross_entropy(seed: int, alpha: float, beta: float) -> None:
    logits = some_logits(seed)
    expected = 0.0
    for p, label in zip(probabilities(logits), LABELS, strict=True):
        onehot = [1.0 if k == label else 1e-4 for k in range(CLASSES)]
        reverse = -sum(max(p[k], 1e-7) * math.log(onehot[k]) for k in range(CLASSES))
        expected += (-alpha * math.log(p[label]) + beta * reverse) / len(LABELS)
    assert float(classified(build(SCE, alpha=alpha, beta=beta), logits).total) == pytest.approx(expected, rel=1e-9)


@given(SEEDS)
def test_reverse_cross_entropy_is_the_probability_off_the_label(seed: int) -> None:
    logits = some_logits(seed)
    off = [1 - p[label] for p, label in zip(probabilities(logits), LABELS, strict=True)]
    value = float(reverse_cross_entropy(logits, torch.tensor(LABELS)))
    assert value == pytest.approx(-math.log(1e-4) * sum(off) / 6, abs=1e-5)


def test_elr_keeps_a_running_mean_of_predictions_and_rewards_agreement_with_it() -> None:
    beta, strength = 0.7, 3.0
    method = build(ELR, beta=beta, strength=strength)
    targets = [[0.0] * CLASSES for _ in LABELS]
    for step in range(3):
        logits = some_logits(step)
        expected = 0.0
        for i, (p, label) in enumerate(zip(probabilities(logits), LABELS, strict=True)):
            clamped = [min(max(v, 1e-4), 1 - 1e-4) for v in p]
            targets[i] = [beta * t + (1 - beta) * v / sum(clamped) for t, v in zip(targets[i], clamped, strict=True)]
            agreement = sum(t * v for t, v in zip(targets[i], clamped, strict=True))
            expected += (-math.log(p[label]) + strength * math.log(1 - agreement)) / len(LABELS)
        assert float(classified(method, logits).total) == pytest.approx(expected, rel=1e-9)
        torch.testing.assert_close(method.targets.double(), torch.tensor(targets).double(), rtol=1e-5, atol=1e-6)


def test_elrs_gradient_does_not_go_through_the_target() -> None:
    logits = some_logits()
    loss = classified(build(ELR, beta=0.7, strength=3.0), logits)
    (gradient,) = torch.autograd.grad(loss.parts["loss_elr"], logits)
    p = logits.detach().softmax(1).clamp(1e-4, 1 - 1e-4)
    fixed = 0.3 * p / p.sum(1, keepdim=True)
    free = logits.detach().clone().requires_grad_()
    again = torch.log(1 - (fixed * free.softmax(1).clamp(1e-4, 1 - 1e-4)).sum(1)).mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(again, free)[0], rtol=1e-6, atol=1e-9)


def test_mixup_weighs_both_labels_as_it_mixes_the_images() -> None:
    method = build(Mixup, alpha=2.0)
    view = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    torch.manual_seed(5)
    share = float(torch.distributions.Beta(2.0, 2.0).sample())
    other = torch.randperm(6)
    mixed = torch.stack([share * view[i] + (1 - share) * view[j] for i, j in enumerate(other.tolist())])
    method.network.eval()  # so that a second pass gives the same
    logits = method.network(mixed)[1]
    expected = 0.0
    for i, p in enumerate(probabilities(logits)):
        expected -= (share * math.log(p[LABELS[i]]) + (1 - share) * math.log(p[LABELS[int(other[i])]])) / 6
    torch.manual_seed(5)
    assert float(method.loss(batch_of(view)).total) == pytest.approx(expected, rel=1e-6)


@given(SEEDS, st.floats(0, 1))
def test_nla_weighs_by_the_density_of_a_gaussian(seed: int, progress: float) -> None:
    logits = some_logits(seed)
    weights = gaussian_weight(logits.softmax(1), torch.tensor(LABELS), progress)
    for p, label, weight in zip(probabilities(logits), LABELS, weights.tolist(), strict=True):
        point = torch.tensor([p[label], max(v for k, v in enumerate(p) if k != label)], dtype=torch.float64)
        if point[0] > point[1]:
            s, r, e = 0.8, 2, 1 - math.exp(-15 * progress)
            mean, off = [0.5, 0.5], e * (-(s**2) + (s / r) ** 2)
        else:
            s, r = 0.91, 6
            mean, off = [0.30, 0.15], s**2 - (s / r) ** 2
        on = s**2 + (s / r) ** 2
        law = torch.distributions.MultivariateNormal(
            torch.tensor(mean, dtype=torch.float64), torch.tensor([[on, off], [off, on]], dtype=torch.float64)
        )
        assert weight == pytest.approx(float(law.log_prob(point).exp()), rel=1e-9)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_nlas_divergence_is_between_each_view_and_the_mean_of_their_logits(reduction: str) -> None:
    method = build(NLA, js_reduction=reduction)
    method._trainer = type("Trainer", (), {"max_epochs": 60, "current_epoch": 0, "callbacks": []})()
    method.network.eval()
    first, second = torch.randn(2, 6, 3, 32, 32, dtype=torch.float64)
    z1, z2 = (method.network(view)[1] for view in (first, second))
    middle = probabilities((z1 + z2) / 2)
    divergence = sum(
        0.5 * m * (math.log(m) - math.log(p))
        for rows in (probabilities(z1), probabilities(z2))
        for row, middles in zip(rows, middle, strict=True)
        for p, m in zip(row, middles, strict=True)
    )
    loss = method.loss(batch_of(first, second))
    scale = 1 if reduction == "sum" else 6
    assert float(loss.parts["loss_js"]) == pytest.approx(divergence / scale, rel=1e-9)
    whole = loss.parts["loss_cls"] + loss.parts["loss_weighted"] + loss.parts["loss_js"]
    assert float(loss.total) == pytest.approx(0.5 * float(whole))


def test_vac_classifies_both_views_and_erases_nothing() -> None:
    method, eac = build(VAC, lam=2.0), build(EAC, lam=2.0)
    torch.manual_seed(0)
    first, second = method.make_views(raw_images())
    assert torch.equal(second, first.flip(-1))
    torch.manual_seed(0)
    method.augmentation.erase_probability = 0.0
    assert torch.equal(first, method.make_views(raw_images())[0])
    method.network.eval(), eac.network.eval()
    batch = batch_of(first.double(), second.double())
    loss, of_eac = method.loss(batch), eac.loss(batch)
    torch.testing.assert_close(loss.parts["loss_consistency"], of_eac.parts["loss_consistency"])
    both = [F.cross_entropy(method.network(view)[1], batch.label) for view in batch.views]
    torch.testing.assert_close(loss.total, (both[0] + both[1]) / 2 + 2.0 * loss.parts["loss_consistency"])


METHODS_WITH_CONSISTENCY = [LabelSmoothing, GCE, SCE, ELR]


@pytest.mark.parametrize("method", METHODS_WITH_CONSISTENCY, ids=lambda method: method.__name__)
def test_attention_consistency_can_be_added(method: Any) -> None:
    without, added, eac = build(method), build(method, lam=4.0), build(EAC, lam=4.0)
    assert (without.views, added.views) == (1, 2)
    torch.manual_seed(0)
    views = added.make_views(raw_images())
    torch.manual_seed(0)
    (only,) = without.make_views(raw_images())
    assert torch.equal(only, views[0])
    for each in (without, added, eac):
        each.network.eval()
    views = tuple(view.double() for view in views)
    alone, both, of_eac = (
        without.loss(batch_of(views[0])),
        added.loss(batch_of(*views)),
        eac.loss(batch_of(*views)),
    )
    consistency = of_eac.parts["loss_consistency"]
    torch.testing.assert_close(both.total, alone.total + 4.0 * consistency)


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        (LabelSmoothing, {"share": 1.2}, "method.share is 1.2"),
        (GCE, {"q": 0.0}, "method.q is 0.0"),
        (GCE, {"truncate_at": 1.0}, "method.truncate_at is 1.0"),
        (GCE, {"truncate_every": 0}, "method.truncate_every is 0"),
        (SCE, {"beta": -1.0}, "method.beta is -1.0"),
        (ELR, {"beta": 1.0}, "method.beta is 1.0"),
        (ELR, {"strength": float("nan")}, "method.strength is nan"),
        (Mixup, {"alpha": 0.0}, "method.alpha is 0.0"),
        (NLA, {"js_reduction": "median"}, "method.js_reduction is 'median'"),
        (VAC, {"lam": -1.0}, "method.lam is -1.0"),
        (ELR, {"lam": -1.0}, "method.lam is -1.0"),
        (ELR, {"erase": "both"}, "method.erase is 'both'"),
    ],
)
def test_values_out_of_range_are_refused(method: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(method, **values)
