"""LDE: targets drift from the given label towards what a sample's neighbours are predicted as."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.small_methods import CLASSES, batch_of, build, build_configured
from support.transcription import assert_equal_to
from torch import Tensor
from torch.nn import functional as F

from fer.errors import ConfigError
from fer.methods.lde import LDE

VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def test_the_loss_is_cross_entropy_and_the_divergence_from_the_drifting_target() -> None:
    method = build(LDE, neighbours=3, momentum=0.9, weight=2.0).eval()
    kept = F.one_hot(torch.arange(6) % CLASSES).double()
    assert torch.equal(method.targets.double(), kept)
    feature_map, logits = method.network(VIEW)
    features, p = feature_map.mean((2, 3)), logits.softmax(1)
    code = method.pair_score.code(features)
    half = features.shape[1] // 2
    for _ in range(2):
        divergence, targets = 0.0, []
        for i in range(6):
            cosine = [float(F.cosine_similarity(features[i], features[j], dim=0)) if j != i else -9 for j in range(6)]
            nearest = sorted(range(6), key=lambda j, c=cosine: -c[j])[:3]
            scores = [method.pair_score.mlp(torch.cat([code[i, :half], code[j, half:]])).softmax(0)[0] for j in nearest]
            average = sum(s * p[j] for s, j in zip(scores, nearest, strict=True)) / sum(scores)
            target = 0.9 * kept[i] + 0.1 * average
            targets.append(target.detach())
            divergence += sum(float(t) * (math.log(t) - math.log(q)) for t, q in zip(target, p[i], strict=True)) / 6
        batch = batch_of(VIEW)
        loss = method.loss(batch)
        assert float(loss.parts["loss_kl"]) == pytest.approx(divergence, rel=1e-6)
        torch.testing.assert_close(loss.total, F.cross_entropy(logits, batch.label) + 2.0 * loss.parts["loss_kl"])
        kept = torch.stack(targets)
        torch.testing.assert_close(method.targets.double(), kept, rtol=1e-5, atol=1e-6)


def test_the_weights_of_neighbours_are_learnt() -> None:
    method = build(LDE, neighbours=3)
    loss = method.loss(batch_of(VIEW))
    gradients = torch.autograd.grad(loss.parts["loss_kl"], [*method.pair_score.parameters()])
    assert all(gradient.any() for gradient in gradients)


def test_a_sample_alone_keeps_its_target() -> None:
    method = build(LDE)
    loss = method.loss(batch_of(VIEW[:1]))
    assert method.targets[0].argmax() == 0 and loss.total.isfinite()


def released_lde(twin: Any, batch: Any) -> Tensor:
    """The released targets and losses of the expression branch, sample by sample, with 3 neighbors."""
    pooled = twin.network.backbone(VIEW).mean((2, 3))
    z = pooled @ twin.network.classifier.weight.T + twin.network.classifier.bias
    log_p = [row - row.exp().sum().log() for row in z]
    score, half = twin.pair_score, pooled.shape[1] // 2
    code = [score.code.weight @ f + score.code.bias for f in pooled]
    unit = [(f / f.norm()).detach() for f in pooled]
    total = torch.zeros((), dtype=torch.float64)
    for i, label in enumerate(batch.label.tolist()):
        nearest = sorted((j for j in range(6) if j != i), key=lambda j, i=i: -float(unit[i] @ unit[j]))[:3]
        edges = []
        for j in nearest:
            x = torch.cat([code[i][:half], code[j][half:]])
            for layer in (score.mlp[0], score.mlp[2]):
                x = torch.relu(layer.weight @ x + layer.bias)
            x = score.mlp[4].weight @ x + score.mlp[4].bias
            edges.append(torch.sigmoid(x[0] - x[1]))  # the first of a softmax of two
        now = sum(w * log_p[j].exp() for w, j in zip(edges, nearest, strict=True)) / sum(edges)
        target = 0.9 * twin.targets[i] + 0.1 * now
        total = total - log_p[i][label] / 6 + (target * (target.log() - log_p[i])).sum() / 6
    return total


def test_lde_is_the_released_algorithm_without_landmarks() -> None:
    method = build(LDE, neighbours=3)
    for _ in range(2):  # from the second step on the kept targets are no one-hot labels
        assert_equal_to(released_lde, method, batch_of(VIEW))


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_given_label_keeps_its_share_of_the_minimum(weight: float) -> None:
    # The target denies the given label altogether.
    target = torch.tensor([0.0, 0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    onehot = F.one_hot(torch.tensor(0), CLASSES).double()
    logits = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=0)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits, onehot) + weight * F.kl_div(logits.log_softmax(0), target, reduction="sum")
        value.backward()
        return value

    optimizer.step(loss)
    found = logits.detach().softmax(0)
    torch.testing.assert_close(found, (onehot + weight * target) / (1 + weight), rtol=0, atol=1e-6)
    if weight == 1.0:
        assert float(found[0]) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"neighbours": 0}, "method.neighbours is 0"),
        ({"momentum": 1.0}, "method.momentum is 1.0"),
        ({"weight": -1.0}, "method.weight is -1.0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(LDE, **values)
