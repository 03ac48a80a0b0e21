"""Methods with heads of their own on the feature map, against their formulas written out in float64."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from support.small_methods import CLASSES, LR, batch_of, build, build_configured, loaded
from support.transcription import assert_equal_to
from torch import Tensor
from torch.nn import functional as F

from fer.errors import ConfigError
from fer.methods.dacl import DACL, sparse_center_loss
from fer.methods.ran import RAN
from fer.methods.rul import RUL
from fer.models.backbones import tiny

VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def steady(method: Any, **values: Any) -> Any:
    """Build the method in evaluation mode, so that a second pass gives the same."""
    return build(method, **values).eval()


# RUL


def test_ruls_more_uncertain_face_has_the_larger_share_of_the_mixture() -> None:
    method = steady(RUL)
    mean, uncertainty = (value.tolist() for value in method.mean_and_uncertainty(VIEW))
    torch.manual_seed(3)
    partner = torch.randperm(6).tolist()
    weight, bias = method.network.classifier.weight, method.network.classifier.bias
    expected, labels = 0.0, (torch.arange(6) % CLASSES).tolist()
    for i, j in enumerate(partner):
        (a,), (b,) = uncertainty[i], uncertainty[j]
        mixed = [(a * m + b * n) / (a + b) for m, n in zip(mean[i], mean[j], strict=True)]
        log_p = (weight @ torch.tensor(mixed, dtype=torch.float64) + bias).log_softmax(0).tolist()
        expected -= 0.5 * (log_p[labels[i]] + log_p[labels[j]]) / 6
    torch.manual_seed(3)
    assert float(method.loss(batch_of(VIEW)).total) == pytest.approx(expected, rel=1e-9)


def test_ruls_uncertainty_is_the_mean_exponential_of_its_head() -> None:
    method = steady(RUL, dimensions=5)
    features = method.network.features(VIEW)
    normalized = features / math.sqrt(1 + 2e-5)  # BatchNorm's running statistics are 0 and 1 still
    linear = method.uncertainty_head[3]
    heads = (normalized.flatten(1) @ linear.weight.T + linear.bias) / math.sqrt(1 + 2e-5)
    _, uncertainty = method.mean_and_uncertainty(VIEW)
    torch.testing.assert_close(uncertainty[:, 0], heads.exp().mean(1))


def test_rul_classifies_a_face_by_its_own_mean_and_keeps_its_uncertainty() -> None:
    method = steady(RUL)
    mean, uncertainty = method.mean_and_uncertainty(VIEW)
    torch.testing.assert_close(method.classify(VIEW), method.network.classifier(mean))
    image = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    out = method.predict_step(loaded(image), 0)
    torch.testing.assert_close(out["probabilities"], method(image).softmax(1).float())
    assert out["uncertainty"].shape == (6,) and (out["uncertainty"] > 0).all()
    assert uncertainty.unique().numel() == 6


def test_ruls_classifier_learns_at_ten_times_the_rate() -> None:
    configured = build(RUL).configure_optimizers()
    groups = configured["optimizer"].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([LR, 10 * LR])
    assert [len(group["params"]) for group in groups][1] == 2
    configured["optimizer"].step()
    configured["lr_scheduler"]["scheduler"].step()
    assert groups[1]["lr"] == pytest.approx(10 * groups[0]["lr"]) and groups[0]["lr"] < LR


# DACL


def test_the_center_loss_weighs_every_dimension() -> None:
    features, attention, centers = torch.rand(3, 4, 5, dtype=torch.float64)
    expected = sum(
        float(attention[i, d]) * float(features[i, d] - centers[i, d]) ** 2 for i in range(4) for d in range(5)
    )
    assert float(sparse_center_loss(features, attention, centers)) == pytest.approx(expected / 8)


def test_dacl_starts_as_its_released_code() -> None:
    names = tuple("abcdefg")
    released, plain = (
        build(DACL, class_names=names, backbone=lambda: tiny(width=64), initialization=each)
        for each in ("released", "plain")
    )
    assert float(released.centers.std()) == pytest.approx(math.sqrt(2 / 7), rel=0.03)  # 0.53
    assert float(plain.centers.std()) == pytest.approx(1, rel=0.03)
    linear = [layer for layer in released.attention if isinstance(layer, torch.nn.Linear)]
    assert len(linear) == 4
    for layer in linear:
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / layer.in_features), rel=0.03)
        assert not layer.bias.any()
    assert any(layer.bias.any() for layer in plain.attention if isinstance(layer, torch.nn.Linear))


def test_dacl_is_its_released_code() -> None:
    """Loss, gradients and centers, batch statistics of the attention network included."""
    method = build(DACL)
    reference = copy.deepcopy(method)
    labels = batch_of(VIEW).label
    features = reference.network.features(VIEW)
    pooled = features.mean((2, 3))
    x = features.flatten(1)
    linear = [layer for layer in reference.attention if isinstance(layer, torch.nn.Linear)]
    for layer, activation in zip(linear, (torch.relu, torch.relu, torch.tanh), strict=False):
        x = x @ layer.weight.T + layer.bias
        x = activation((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt())
    pairs = (x @ linear[3].weight.T + linear[3].bias).view(6, -1, 2).exp()
    attention = pairs[:, :, 1] / pairs.sum(2)
    centers = reference.centers[labels]
    logits = pooled @ reference.network.classifier.weight.T + reference.network.classifier.bias
    expected = -logits.log_softmax(1)[range(6), labels].mean()
    expected = expected + 0.01 * (attention * (pooled - centers) ** 2).sum() / 2 / 6
    expected.backward()
    moved = reference.centers.clone()
    for k in range(CLASSES):
        rows = labels == k
        gradient = -(attention * (pooled - centers))[rows].sum(0) / (1 + rows.sum())
        moved[k] -= 0.5 * gradient.detach()
    loss = method.loss(batch_of(VIEW))
    loss.total.backward()
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(method.centers, moved, rtol=1e-10, atol=1e-12)
    for (name, ours), theirs in zip(method.named_parameters(), reference.parameters(), strict=True):
        largest = theirs.grad.abs().max() if theirs.grad is not None else 0.0
        if theirs.grad is None:
            # Scale and shift of the attention network's BatchNorm, left out above, are 1 and 0.
            assert name.startswith("attention")
        else:
            assert (ours.grad - theirs.grad).abs().max() <= 1e-8 * largest + 1e-12, name


@pytest.mark.parametrize("attentive", [True, False])
def test_centers_move_by_their_own_rule(attentive: bool) -> None:
    method = steady(DACL, attentive=attentive, weight=0.01, center_lr=0.5)
    before = method.centers.clone()
    features, _ = method.network(VIEW)
    pooled = features.mean((2, 3))
    attention = method.attention(features) if attentive else torch.ones_like(pooled)
    assert attention.shape == pooled.shape and (not attentive or ((attention > 0) & (attention < 1)).all())
    batch = batch_of(VIEW)
    loss = method.loss(batch)
    expected = before.clone()
    for k in range(CLASSES):
        members = [i for i in range(6) if int(batch.label[i]) == k]
        gradient = sum(attention[i] * (pooled[i] - before[k]) for i in members)
        expected[k] += 0.5 * gradient / (1 + len(members))
    torch.testing.assert_close(method.centers, expected.detach())
    center = sparse_center_loss(pooled, attention, before[batch.label])
    torch.testing.assert_close(loss.parts["loss_center"], center)
    torch.testing.assert_close(loss.total, loss.parts["loss_cls"] + 0.01 * center)


def test_the_center_loss_moves_the_backbone_and_the_attention() -> None:
    method = build(DACL)
    loss = method.loss(batch_of(VIEW)).parts["loss_center"]
    parameters = [method.network.backbone.conv1.weight, *method.attention.parameters()]
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, parameters))


def test_the_attention_network_has_the_papers_widths_for_the_papers_map() -> None:
    from fer.methods.dacl import _attention_network

    with torch.device("meta"):
        network = _attention_network(512, 49)
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in linear]
    assert widths == [(25088, 3584), (3584, 512), (512, 64), (64, 1024)]


# RAN

# Top, left and edge on 32 pixels, after the list of the released generator.
RELEASED = [(0, 0, 24), (0, 8, 24), (8, 4, 24), (0, 4, 24), (1, 1, 29), (3, 3, 26), (4, 4, 24)]
FIXED = [(0, 0, 24), (0, 8, 24), (8, 0, 24), (8, 8, 24), (4, 4, 24)]


def rans_regions(squares: list[tuple[int, int, int]]) -> list[Tensor]:
    cut = [VIEW[:, :, top : top + edge, left : left + edge] for top, left, edge in squares]
    return [VIEW, *(F.interpolate(crop, size=(32, 32), mode="bilinear", align_corners=False) for crop in cut)]


@pytest.mark.parametrize(
    ("values", "squares"),
    [
        ({"num_crops": 7}, RELEASED),
        ({}, RELEASED[:5]),
        ({"num_crops": 1}, RELEASED[:1]),
        ({"crops": "fixed"}, FIXED),
        ({"crops": "fixed", "num_crops": 2, "crop_size": 0.5}, [(0, 0, 16), (0, 16, 16)]),
    ],
)
def test_rans_regions_are_the_whole_face_and_its_crops(
    values: dict[str, Any], squares: list[tuple[int, int, int]]
) -> None:
    regions = steady(RAN, **values).regions(VIEW)
    assert regions.shape == (6, 1 + len(squares), 3, 32, 32)
    torch.testing.assert_close(regions, torch.stack(rans_regions(squares), 1))


def test_rans_random_crops_are_fixed_in_tests() -> None:
    method = build(RAN, crops="random")
    assert not torch.equal(method.regions(VIEW), method.regions(VIEW))
    torch.testing.assert_close(method.eval().regions(VIEW), steady(RAN, crops="fixed").regions(VIEW))


def released_ran(
    twin: Any, batch: Any, *, margin: float = 0.1, softmax: bool = True, region: str = "softmax", joint: bool = False
) -> Tensor:
    """RAN's algorithm sample by sample, from the twin's weights."""
    regions = rans_regions(RELEASED[:5])
    if joint:
        pooled = twin.network.backbone(torch.cat(regions)).mean((2, 3)).split(6)
    else:
        pooled = [twin.network.backbone(each).mean((2, 3)) for each in regions]
    q0, q1, classifier = twin.self_attention, twin.relation_attention, twin.network.classifier
    cross_entropy, bias = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for n in range(6):
        f = [values[n] for values in pooled]
        raw = torch.stack([1 / (1 + torch.exp(-(q0.weight[0] @ x + q0.bias[0]))) for x in f])
        normed = raw.exp() / raw.exp().sum()
        mu = normed if softmax else raw
        f_m = sum(mu[i] * f[i] for i in range(6)) / sum(mu)
        pairs = [torch.cat([x, f_m]) for x in f]
        nu = torch.stack([1 / (1 + torch.exp(-(q1.weight[0] @ x + q1.bias[0]))) for x in pairs])
        nu = nu.exp() / nu.exp().sum() if softmax else nu
        p = sum(mu[i] * nu[i] * pairs[i] for i in range(6)) / sum(mu[i] * nu[i] for i in range(6))
        z = classifier.weight @ p + classifier.bias
        cross_entropy = cross_entropy - (z[batch.label[n]] - z.exp().sum().log()) / 6
        compared = normed if region == "softmax" else raw
        bias = bias + torch.relu(margin - (max(compared[1:]) - compared[0])) / 6
    return cross_entropy + bias


@pytest.mark.parametrize("margin", [0.1, 0.03, 0.02])
def test_ran_is_the_released_algorithm(margin: float) -> None:
    method = build(RAN, margin=margin)
    assert_equal_to(partial(released_ran, margin=margin), method, batch_of(VIEW))


@pytest.mark.parametrize(
    ("values", "as_transcribed"),
    [
        ({"softmax": False}, {"softmax": False}),
        ({"region_loss": "sigmoid"}, {"region": "sigmoid"}),
        ({"passes": "joint"}, {"joint": True}),
    ],
)
def test_rans_variants_are_other_algorithms(values: dict[str, Any], as_transcribed: dict[str, Any]) -> None:
    found = assert_equal_to(partial(released_ran, **as_transcribed), build(RAN, **values), batch_of(VIEW))
    assert abs(float(found - build(RAN).loss(batch_of(VIEW)).total)) > 1e-6


def test_rans_passes_differ_in_training_only() -> None:
    separate, joint = (build(RAN, passes=passes) for passes in ("separate", "joint"))
    torch.testing.assert_close(separate.eval().classify(VIEW), joint.eval().classify(VIEW), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        (RUL, {"dimensions": 0}, "method.dimensions is 0"),
        (RUL, {"dropout": 1.0}, "method.dropout is 1.0"),
        (RUL, {"classifier_lr_factor": 0.0}, "method.classifier_lr_factor is 0.0"),
        (DACL, {"weight": -1.0}, "method.weight is -1.0"),
        (DACL, {"center_lr": 1.5}, "method.center_lr is 1.5"),
        (DACL, {"initialization": "zero"}, "method.initialization is 'zero'"),
        (RAN, {"crops": "landmarks"}, "method.crops is 'landmarks'"),
        (RAN, {"num_crops": 8}, "method.num_crops is 8"),
        (RAN, {"num_crops": 6, "crops": "fixed"}, "method.num_crops is 6"),
        (RAN, {"num_crops": 0}, "method.num_crops is 0"),
        (RAN, {"region_loss": "none"}, "method.region_loss is 'none'"),
        (RAN, {"passes": "one"}, "method.passes is 'one'"),
        (RAN, {"crop_size": 1.0}, "method.crop_size is 1.0"),
        (RAN, {"margin": -0.1}, "method.margin is -0.1"),
    ],
)
def test_values_out_of_range_are_refused(method: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(method, **values)
