"""DivideMix splits the training set and treats the parts unlike, against its formulas in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.epochs import in_epoch
from support.small_methods import CLASSES, batch_of, build, build_configured
from torch import Tensor
from torch.nn import functional as F

from fer.errors import ConfigError, TrainingError
from fer.methods.dividemix import DivideMix, sharpen, small_loss_probability, small_loss_probability_from_k_means

VIEWS = tuple(torch.randn(2, 6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))


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
    labeled = 0.2 * own[0]
    labeled[2] += 0.8
    torch.testing.assert_close(targets[0], labeled**2 / (labeled**2).sum(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(targets[1], both[1] ** 2 / (both[1] ** 2).sum())


@pytest.mark.parametrize("prior", ["uniform", "given", "none"])
def test_dividemix_trains_each_network_by_mixmatch_on_the_others_split(prior: str) -> None:
    method = in_epoch(build(DivideMix, warm_up=10, ramp=16, prior=prior, peer_evaluates=False), 18)
    method.clean.copy_(torch.tensor([[0.9, 0.8, 0.1, 0.2, 0.7, 0.3], [0.1, 0.9, 0.6, 0.4, 0.2, 0.95]]))
    batch = batch_of(*VIEWS)
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
        labeled = torch.cat([w > 0.5, w > 0.5])
        share = torch.distributions.Beta(4.0, 4.0).sample()
        share = max(share, 1 - share)
        partner = torch.randperm(12)
        images = torch.cat(VIEWS)
        logits = network(share * images + (1 - share) * images[partner])[1]
        mixed = share * target + (1 - share) * target[partner]
        ce = -(mixed * logits.log_softmax(1)).sum(1)[labeled].mean()
        mse = (logits.softmax(1) - mixed).square()[~labeled].mean()
        expected = expected + ce + 25 * (18 - 10) / 16 * mse
        if prior != "none":
            expected = expected + (shares * (shares / logits.softmax(1).mean(0)).log()).sum()
    torch.manual_seed(4)
    torch.testing.assert_close(method.loss(batch).total, expected, rtol=1e-6, atol=1e-6)


def released(nets: list[Any], clean: list[list[float]], labels: Tensor, partners: list[Tensor], shares: list[float],
             lambda_u: float) -> Tensor:  # fmt: skip
    """A step of each network as the released code makes it, from labeled and unlabeled batches of their own.

    ``partners`` are positions among both views of the whole batch, as ours draws them.
    """
    peers = []
    for net in nets:
        net.eval()
        peers.append([net(view)[1].softmax(1).detach() for view in VIEWS])
        net.train()
    losses = []
    for net, w, of_peer, partner, share in zip(nets, clean, peers[::-1], partners, shares, strict=True):
        x = [i for i in range(6) if w[i] > 0.5]
        u = [i for i in range(6) if w[i] <= 0.5]
        with torch.no_grad():
            of_u = [net(view[u])[1].softmax(1) for view in VIEWS]
            of_x = [net(view[x])[1].softmax(1) for view in VIEWS]
        guess = (of_u[0] + of_u[1] + of_peer[0][u] + of_peer[1][u]) / 4
        weight = torch.tensor(w, dtype=torch.float64)[x, None]
        refined = weight * F.one_hot(labels[x], CLASSES) + (1 - weight) * (of_x[0] + of_x[1]) / 2
        goal = torch.zeros(6, CLASSES, dtype=torch.float64)
        goal[u], goal[x] = guess**2 / (guess**2).sum(1, keepdim=True), refined**2 / (refined**2).sum(1, keepdim=True)
        # All inputs in the released code's order, and which of ours each one is.
        order = torch.tensor([*x, *(6 + i for i in x), *u, *(6 + i for i in u)])
        inputs, goals = torch.cat(VIEWS), torch.cat([goal, goal])
        mixed = share * inputs[order] + (1 - share) * inputs[partner[order]]
        goals = share * goals[order] + (1 - share) * goals[partner[order]]
        z = net(mixed)[1]
        known = 2 * len(x)
        labeled = -(goals[:known] * z[:known].log_softmax(1)).sum(1).mean()
        unlabeled = ((z[known:].softmax(1) - goals[known:]) ** 2).mean()
        even = float(np.float32(1 / CLASSES))
        prior = sum(even * (even / p).log() for p in z.softmax(1).mean(0))
        losses.append(labeled + lambda_u * unlabeled + prior)
    return sum(losses)  # type: ignore[return-value]


@pytest.mark.parametrize(("epoch", "step"), [(10, 0), (14, 3), (40, 5)])
def test_dividemix_is_its_released_code(epoch: int, step: int) -> None:
    method = in_epoch(build(DivideMix, warm_up=10, ramp=16, prior="uniform"), epoch).train()
    with torch.no_grad():
        for net in (method.network, method.second_network):  # running statistics that differ from a batch's
            net(VIEWS[0] * 1.5 + 0.3)
    nets = copy.deepcopy([method.network, method.second_network])
    for module in [module for net in nets for module in net.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.__class__ = torch.nn.BatchNorm2d
    clean = [[0.9, 0.8, 0.1, 0.2, 0.7, 0.3], [0.1, 0.9, 0.6, 0.4, 0.2, 0.95]]
    method.clean.copy_(torch.tensor(clean))
    batch = batch_of(*VIEWS)
    torch.manual_seed(4)
    shares, partners = [], []
    for _ in nets:
        share = torch.distributions.Beta(4.0, 4.0).sample().item()
        shares.append(max(share, 1 - share))
        partners.append(torch.randperm(12))
    lambda_u = 25 * min(max((epoch + step / 8 - 10) / 16, 0), 1)
    weights = [method.clean[1].tolist(), method.clean[0].tolist()]
    expected = released(nets, weights, batch.label, partners, shares, lambda_u)
    expected.backward()
    method._epoch_done = step / 8
    torch.manual_seed(4)
    loss = method.loss(batch).total
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for net, reference in zip((method.network, method.second_network), nets, strict=True):
        for (name, ours), theirs in zip(net.named_parameters(), reference.parameters(), strict=True):
            assert (ours.grad - theirs.grad).abs().max() <= 1e-8 * theirs.grad.abs().max() + 1e-12, name
        for (name, ours), theirs in zip(net.named_buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=name)


def test_the_mixture_starts_from_k_means() -> None:
    """Means of the two clusters, then at most ten steps that end where the likelihood rises by less than 0.01."""
    generator = np.random.default_rng(0)
    losses = np.concatenate([generator.normal(0.3, 0.1, 70), generator.normal(2.5, 0.6, 30)])
    x = (losses - losses.min()) / (losses.max() - losses.min())
    low = x < 0.5
    while True:
        moved = abs(x - x[low].mean()) < abs(x - x[~low].mean())
        if (moved == low).all():
            break
        low = moved
    weight, before = np.stack([low, ~low], 1).astype(float), -np.inf

    def step(weight: Any) -> Any:
        total = weight.sum(0) + 10 * np.finfo(float).eps
        mean = weight.T @ x / total
        variance = (weight * (x[:, None] - mean) ** 2).sum(0) / total + 5e-4
        return total / len(x) * np.exp(-((x[:, None] - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    density = step(weight)
    for _ in range(10):
        likelihood = np.log(density.sum(1)).mean()
        weight = density / density.sum(1, keepdims=True)
        density = step(weight)
        if abs(likelihood - before) < 1e-2:
            break
        before = likelihood
    found = small_loss_probability_from_k_means(torch.tensor(losses), seed=0)
    np.testing.assert_allclose(found.numpy(), density[:, 0] / density.sum(1), atol=1e-8)
    assert torch.equal(found, small_loss_probability_from_k_means(torch.tensor(losses), seed=0))
    equal = small_loss_probability_from_k_means(torch.full((5,), 0.7), seed=0)
    assert equal.isfinite().all()
    with pytest.raises(TrainingError, match="diverged"):
        small_loss_probability_from_k_means(torch.tensor([1.0, torch.nan]), seed=0)


def test_confident_predictions_are_penalized_in_the_warm_up_where_asked() -> None:
    method = in_epoch(build(DivideMix, warm_up=10, confidence_penalty=True), 3)
    batch = batch_of(*VIEWS)
    expected = 0.0
    for net in (method.network, method.second_network):
        p = net(VIEWS[0])[1].softmax(1)
        for i in range(6):
            expected = expected + (-p[i, batch.label[i]].log() + sum(v * v.log() for v in p[i])) / 6
    torch.testing.assert_close(method.loss(batch).total, expected)


def test_dividemix_warms_up_and_ramps() -> None:
    method = in_epoch(build(DivideMix, warm_up=10, ramp=16), 9)
    batch = batch_of(*VIEWS)
    expected = sum(F.cross_entropy(net(VIEWS[0])[1], batch.label) for net in (method.network, method.second_network))
    torch.testing.assert_close(method.loss(batch).total, expected)
    assert [method.weight_of_unlabeled(epoch) for epoch in (10, 18, 26, 80)] == pytest.approx([0, 12.5, 25, 25])


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        (DivideMix, {"mixture": "gmm"}, "method.mixture is 'gmm'"),
        (DivideMix, {"ramp": -1}, "method.ramp is -1"),
        (DivideMix, {"threshold": 1.5}, "method.threshold is 1.5"),
        (DivideMix, {"temperature": 0.0}, "method.temperature is 0.0"),
        (DivideMix, {"prior": "true"}, "method.prior is 'true'"),
    ],
)
def test_values_out_of_range_are_refused(method: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(method, **values)
