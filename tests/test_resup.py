"""ReSup: what one network thinks clean, the other learns from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_methods import batch_of, build
from torch.nn import functional as F

from fer.methods.resup import ReSup, clean_probability

VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def test_two_groups_of_similarities_are_told_apart() -> None:
    generator = np.random.default_rng(0)
    wrong, right = generator.beta(2, 10, 300), generator.beta(12, 2, 700)
    clean = clean_probability(np.concatenate([wrong, right]))
    assert (clean[:300] < 0.5).mean() > 0.95 and (clean[300:] > 0.5).mean() > 0.95
    assert ((clean >= 0) & (clean <= 1)).all()


def test_the_probability_never_falls_with_similarity() -> None:
    # A wide and a narrow component: the plain posterior would fall again at the end.
    generator = np.random.default_rng(1)
    x = np.concatenate([generator.beta(1, 1, 500), generator.beta(40, 20, 500)])
    clean = clean_probability(x)
    assert (np.diff(clean[np.argsort(x)]) >= 0).all()


def reference_em(x: np.ndarray) -> list[tuple[float, float]]:
    """Ten steps of EM by plain loops over samples."""

    def pdf(v: float, a: float, b: float) -> float:
        return math.exp(
            (a - 1) * math.log(v) + (b - 1) * math.log(1 - v) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        )

    parameters, shares = [(1.0, 2.0), (2.0, 1.0)], [0.5, 0.5]
    for _ in range(10):
        weights = []
        for v in x:
            density = [s * pdf(v, *ab) for s, ab in zip(shares, parameters, strict=True)]
            weights.append([d / sum(density) for d in density])
        parameters = []
        for k in range(2):
            total = sum(w[k] for w in weights)
            mean = sum(w[k] * v for w, v in zip(weights, x, strict=True)) / total
            variance = sum(w[k] * (v - mean) ** 2 for w, v in zip(weights, x, strict=True)) / total
            n = mean * (1 - mean) / variance - 1
            parameters.append((mean * n, (1 - mean) * n))
            shares[k] = total / len(x)
    density = [[s * pdf(v, *ab) for v in x] for s, ab in zip(shares, parameters, strict=True)]
    return [(float(v), density[1][i] / (density[0][i] + density[1][i])) for i, v in enumerate(x)]


def test_the_mixture_is_fitted_by_ten_steps_of_em() -> None:
    generator = np.random.default_rng(2)
    x = np.concatenate([generator.beta(3, 9, 60), generator.beta(9, 3, 140)])
    clean = clean_probability(x)
    for found, (_, exact) in zip(clean, reference_em(x), strict=True):
        assert found == pytest.approx(exact, abs=0.06)  # a bin's width of similarity


@pytest.mark.parametrize("x", [np.full(5, 0.0), np.full(5, 1.0), np.array([0.0, 1.0]), np.linspace(0, 1, 7)])
def test_degenerate_similarities_give_probabilities(x: np.ndarray) -> None:
    clean = clean_probability(x)
    assert np.isfinite(clean).all() and ((clean >= 0) & (clean <= 1)).all()


def test_each_network_is_weighted_by_the_other() -> None:
    method = build(ReSup, agreement=5.0).eval()
    with torch.no_grad():
        method.clean.copy_(torch.rand(2, 6))
    batch = batch_of(VIEW)
    first, second = method.logits_of_both(VIEW)
    each = [F.cross_entropy(z, batch.label, reduction="none") for z in (first, second)]
    agreement = (
        sum(
            float(p - q) ** 2
            for row, other in zip(first.softmax(1), second.softmax(1), strict=True)
            for p, q in zip(row, other, strict=True)
        )
        / first.numel()
    )
    loss = method.loss(batch)
    torch.testing.assert_close(loss.parts["loss_first"], (method.clean[1] * each[0]).mean())
    torch.testing.assert_close(loss.parts["loss_second"], (method.clean[0] * each[1]).mean())
    expected = (method.clean[1] * each[0]).mean() + (method.clean[0] * each[1]).mean() + 5.0 * agreement
    torch.testing.assert_close(loss.total, expected)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.agreement is -1\.0"):
        build(ReSup, agreement=-1.0)
