"""ReSup: what one network thinks clean, the other learns from."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.small_methods import batch_of, build, build_configured
from support.transcription import assert_equal_to
from torch import Tensor
from torch.nn import functional as F

from fer.errors import ConfigError
from fer.methods.resup import ReSup, clean_table, look_up, similarity_to_label

VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def clean_probability(x: np.ndarray) -> np.ndarray:
    values = look_up(torch.from_numpy(np.stack([clean_table(x)] * 2)), torch.from_numpy(np.stack([x] * 2)))
    return values[0].numpy()


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


def in_epoch(method: Any, epoch: int) -> Any:
    trainer = {"max_epochs": 30, "current_epoch": epoch, "callbacks": [], "world_size": 1, "optimizers": []}
    method._trainer = type("Trainer", (), trainer)()
    return method


def tables(seed: int = 5) -> Tensor:
    """Two rising tables."""
    steps = torch.rand(2, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return steps.cumsum(1) / steps.sum(1, keepdim=True)


def released_resup(twin: Any, batch: Any, *, table: Any, agreement: float, kept: Any = None) -> Tensor:
    """The released step sample by sample; ``kept`` weighs instead of what the step itself predicts."""
    maps = [network.backbone(VIEW).mean((2, 3)) for network in (twin.network, twin.second_network)]
    classifiers = [network.classifier for network in (twin.network, twin.second_network)]
    total = torch.zeros((), dtype=torch.float64)
    for n, label in enumerate(batch.label.tolist()):
        log_p = []
        for f, c in zip(maps, classifiers, strict=True):
            z = c.weight @ f[n] + c.bias
            log_p.append(z - z.exp().sum().log())
        weight = []
        for a in (0, 1):
            p = log_p[a].exp().tolist()
            cosine = p[label] / math.sqrt(sum(q * q for q in p))
            found = float(table[a][min(99, int(100 * min(max(cosine, 1e-4), 1 - 1e-4)))])
            weight.append(found if kept is None else float(kept[a][n]))
        total = total - (weight[1] * log_p[0][label] + weight[0] * log_p[1][label]) / 6
        total = total + agreement * ((log_p[0].exp() - log_p[1].exp()) ** 2).sum() / (6 * len(log_p[0]))
    return total


@pytest.mark.parametrize("epoch", [1, 20])
def test_resup_is_the_released_algorithm(epoch: int) -> None:
    method = in_epoch(build(ReSup, agreement=5.0), epoch)
    method.tables.copy_(tables())
    assert_equal_to(partial(released_resup, table=tables(), agreement=5.0), method, batch_of(VIEW))


@pytest.mark.parametrize(("agreement_from", "agreement"), [(1, 0.0), (0, 5.0)])
def test_the_first_epoch_is_cross_entropy_without_agreement(agreement_from: int, agreement: float) -> None:
    method = in_epoch(build(ReSup, agreement_from=agreement_from), 0)
    ones = torch.ones(2, 100)
    assert_equal_to(partial(released_resup, table=ones, agreement=agreement), method, batch_of(VIEW))


def test_weights_of_the_epoch_do_not_follow_the_step() -> None:
    method = in_epoch(build(ReSup, weights="epoch"), 3)
    kept = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    method.clean.copy_(kept)
    assert_equal_to(partial(released_resup, table=tables(), agreement=5.0, kept=kept), method, batch_of(VIEW))


@pytest.mark.parametrize("weights", ["step", "epoch"])
def test_mixtures_are_fitted_before_every_epoch_but_the_first(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.rand(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    p = p / p.sum(2, keepdim=True)
    method = in_epoch(build(ReSup, weights=weights), 0)
    monkeypatch.setattr(method, "probabilities_of_training_samples", lambda: p)
    monkeypatch.setattr("fer.methods.core.method.Method.on_train_epoch_start", lambda self: None)
    method.on_train_epoch_start()
    state = method.tables if weights == "step" else method.clean
    assert (state == 1).all()
    in_epoch(method, 1).on_train_epoch_start()
    onehot = F.one_hot(method.given_labels, 5).double()
    cosine = torch.stack([F.cosine_similarity(each, onehot, dim=1) for each in p])
    expected = torch.stack([torch.from_numpy(clean_table(row.numpy())) for row in cosine])
    torch.testing.assert_close(state, expected if weights == "step" else look_up(expected, cosine))
    torch.testing.assert_close(similarity_to_label(p, method.given_labels), cosine)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"agreement": -1.0}, r"method\.agreement is -1\.0"),
        ({"agreement_from": -1}, r"method\.agreement_from is -1"),
        ({"weights": "batch"}, r"method\.weights is 'batch'"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(ReSup, **values)
