"""LDE: targets drift from the given label towards what a sample's neighbours are predicted as."""

from __future__ import annotations

import math

import pytest
import torch
from small_methods import CLASSES, batch_of, build
from torch.nn import functional as F

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
    loss = method.loss(batch_of(VIEW[:1], 1))
    assert method.targets[0].argmax() == 0 and loss.total.isfinite()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"neighbours": 0}, "method.neighbours is 0"),
        ({"momentum": 1.0}, "method.momentum is 1.0"),
        ({"weight": -1.0}, "method.weight is -1.0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(LDE, **values)
