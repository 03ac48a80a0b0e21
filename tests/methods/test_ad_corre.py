"""Ad-Corre's three correlation losses against NumPy's correlation, and their gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_methods import CLASSES, batch_of, build, build_configured
from support.transcription import assert_equal_to
from torch import Tensor
from torch.nn import functional as F

from fer.errors import ConfigError
from fer.methods.ad_corre import (
    AdCorre,
    correlation,
    embedding_discriminator,
    feature_discriminator,
    mean_discriminator,
)

VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
LABELS = torch.tensor([0, 1, 1, 3, 0, 4])


def some_embeddings(seed: int) -> Tensor:
    return torch.randn(3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
def test_correlation_is_pearsons_and_does_not_see_scale_and_offset(seed: int, scale: float, offset: float) -> None:
    rows = some_embeddings(seed)
    expected = np.stack([np.corrcoef(each) for each in rows.numpy()])
    np.testing.assert_allclose(correlation(rows).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(correlation(scale * rows + offset).numpy(), expected, atol=1e-7)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_samples_shall_correlate_within_a_class_only(seed: int, adaptive: bool) -> None:
    embeddings, recall = some_embeddings(seed), [0.9, 0.2, 0.0, 1.0, 0.5]
    expected = 0.0
    for each in embeddings.numpy():
        phi = np.corrcoef(each)
        for i in range(6):
            for j in range(6):
                term = abs((1 if LABELS[i] == LABELS[j] else -1) - phi[i, j])
                if adaptive:
                    term *= 0 if i == j else 1 + (1 - recall[LABELS[i]]) + (1 - recall[LABELS[j]])
                expected += term / (3 * 36)
    weights = torch.tensor(recall) if adaptive else None
    assert float(feature_discriminator(embeddings, LABELS, weights)) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["batch_mean", "left_out"]))
def test_means_of_classes_shall_not_correlate(seed: int, absent: Any) -> None:
    embeddings, expected = some_embeddings(seed), 0.0
    assert 2 not in LABELS
    for each in embeddings.numpy():
        means = {k: each[LABELS.numpy() == k].mean(0) for k in sorted(set(LABELS.tolist()))}
        if absent == "batch_mean":
            means[2] = each.mean(0)
        for a, first in means.items():
            for b, second in means.items():
                expected += (1 + np.corrcoef(first, second)[0, 1]) * (a != b) / (3 * CLASSES**2)
    found = mean_discriminator(embeddings, LABELS, CLASSES, absent=absent)
    assert float(found) == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1))
def test_embeddings_of_a_sample_shall_not_correlate(seed: int) -> None:
    embeddings = some_embeddings(seed)
    phi = [np.corrcoef(embeddings[:, i].numpy()) for i in range(6)]
    expected = sum((1 + phi[i][a, b]) * (a != b) for i in range(6) for a in range(3) for b in range(3)) / (6 * 9)
    assert float(embedding_discriminator(embeddings)) == pytest.approx(expected)


@pytest.mark.parametrize("part", ["loss_fd", "loss_md", "loss_ed"])
def test_every_correlation_loss_moves_the_backbone(part: str) -> None:
    method = build(AdCorre, embeddings=3, dimensions=8)
    loss = method.loss(batch_of(VIEW)).parts[part]
    assert torch.autograd.grad(loss, method.network.backbone.conv1.weight)[0].any()


def transcribed(
    twin: Any, batch: Any, *, gradients: bool = False, absent: str = "batch_mean", adaptive: bool = False
) -> Tensor:
    """The released loss, and the variants beside it, in loops over samples, classes and embeddings."""

    def corr(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(), b - b.mean()
        return (a @ b) / (a.norm() * b.norm())

    pooled = twin.network.backbone(VIEW).mean((2, 3))
    e = [
        [v / v.norm() for v in (twin.embed.weight[8 * k : 8 * k + 8] @ f + twin.embed.bias[8 * k : 8 * k + 8]
                                for k in range(3))]
        for f in pooled
    ]  # fmt: skip
    classifier, labels = twin.network.classifier, batch.label.tolist()
    z = [classifier.weight @ torch.cat(rows) + classifier.bias for rows in e]
    total = 50 * sum(row.exp().sum().log() - row[y] for row, y in zip(z, labels, strict=True)) / (6 * CLASSES)
    if not gradients:
        e = [[v.detach() for v in rows] for rows in e]
    hits = [int(row.argmax()) == y for row, y in zip(z, labels, strict=True)]
    recall = [sum(h for h, y in zip(hits, labels, strict=True) if y == k) / max(1, labels.count(k)) for k in range(5)]
    for k in range(3):
        for i in range(6):
            for j in range(6):
                if i != j:
                    weight = 1 + (1 - recall[labels[i]]) + (1 - recall[labels[j]]) if adaptive else 1
                    omega = 1 if labels[i] == labels[j] else -1
                    total = total + weight * (omega - corr(e[i][k], e[j][k])).abs() / (3 * 36)
        means: dict[int, Tensor] = {}
        for a in range(CLASSES):
            members = [e[i][k] for i in range(6) if labels[i] == a]
            if not members and absent == "batch_mean":
                members = [e[i][k] for i in range(6)]
            if members:
                means[a] = sum(members[1:], members[0]) / len(members)
        pairs = [(a, b) for a in means for b in means if a != b]
        total = total + sum(1 + corr(means[a], means[b]) for a, b in pairs) / (3 * CLASSES**2)
    for i in range(6):
        total = total + sum(1 + corr(e[i][a], e[i][b]) for a in range(3) for b in range(3) if a != b) / (6 * 9)
    return torch.as_tensor(total)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"gradients": True},
        {"absent": "left_out"},
        {"gradients": True, "adaptive": True},
        {"gradients": True, "absent": "left_out", "adaptive": True},
    ],
)
def test_ad_corre_is_the_released_algorithm_or_a_named_variant(values: dict[str, Any]) -> None:
    released = {"gradients": False, "absent": "batch_mean", "adaptive": False}
    method = build(AdCorre, embeddings=3, dimensions=8, dropout=0.0, **{**released, **values})
    # Two classes, the third and the fourth, are absent.
    label = torch.tensor([0, 1, 1, 4, 0, 4])
    batch = batch_of(VIEW)._replace(label=label)
    assert_equal_to(partial(transcribed, **values), method, batch)


def test_as_released_the_correlation_losses_train_nothing() -> None:
    released = build(AdCorre, embeddings=3, dimensions=8, dropout=0.0, gradients=False)
    loss = released.loss(batch_of(VIEW))
    weights = [*released.parameters()]
    found = torch.autograd.grad(loss.total, weights, retain_graph=True)
    expected = torch.autograd.grad(50 / CLASSES * loss.parts["loss_cls"], weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all(loss.parts[name] > 0.1 for name in ("loss_fd", "loss_md", "loss_ed"))


def test_the_total_weighs_cross_entropy_by_classes() -> None:
    method = build(AdCorre, embeddings=3, dimensions=8, ce_weight=50.0).eval()
    batch = batch_of(VIEW)
    loss = method.loss(batch)
    parts = loss.parts
    torch.testing.assert_close(loss.logits, method.classify(VIEW))
    torch.testing.assert_close(parts["loss_cls"], F.cross_entropy(loss.logits, batch.label))
    expected = 50 / CLASSES * parts["loss_cls"] + parts["loss_fd"] + parts["loss_md"] + parts["loss_ed"]
    torch.testing.assert_close(loss.total, expected)


def test_recall_is_counted_over_the_last_labels() -> None:
    method = build(AdCorre, embeddings=2, dimensions=4, window=5)
    for labels, predicted, expected in [
        ([0, 0, 1], [0, 1, 1], [0.5, 1, 0, 0, 0]),
        ([0, 2, 3], [0, 2, 4], [2 / 3, 1, 1, 0, 0]),  # the first step still is inside the last five
        ([1, 1, 4], [1, 0, 4], [1, 0.5, 1, 0, 1]),  # now it is not
    ]:
        logits = F.one_hot(torch.tensor(predicted), CLASSES).double()
        assert method._recall(logits, torch.tensor(labels)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"embeddings": 1}, "method.embeddings is 1"),
        ({"dimensions": 1}, "method.dimensions is 1"),
        ({"dropout": 1.0}, "method.dropout is 1.0"),
        ({"ce_weight": 0.0}, "method.ce_weight is 0.0"),
        ({"absent": "zero"}, "method.absent is 'zero'"),
        ({"window": 0}, "method.window is 0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(AdCorre, **values)
