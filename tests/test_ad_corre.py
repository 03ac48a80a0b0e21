"""Ad-Corre's three correlation losses against NumPy's correlation, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_methods import CLASSES, batch_of, build
from torch import Tensor
from torch.nn import functional as F

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


@given(st.integers(0, 2**32 - 1))
def test_means_of_classes_shall_not_correlate(seed: int) -> None:
    embeddings, expected = some_embeddings(seed), 0.0
    for each in embeddings.numpy():
        means = {k: each[LABELS.numpy() == k].mean(0) for k in sorted(set(LABELS.tolist()))}
        for a, first in means.items():
            for b, second in means.items():
                expected += (1 + np.corrcoef(first, second)[0, 1]) * (a != b) / (3 * CLASSES**2)
    assert float(mean_discriminator(embeddings, LABELS, CLASSES)) == pytest.approx(expected)


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
        ({"window": 0}, "method.window 0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(AdCorre, **values)
