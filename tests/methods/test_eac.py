"""EAC against the paper's formulas written out independently, in float64 where equality is claimed."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_methods import CLASSES, GAMMA, LR, WEIGHT_DECAY, build, build_configured, raw_images, with_views
from support.transcription import assert_equal_to
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from fer.errors import ConfigError
from fer.methods.ce import CrossEntropy
from fer.methods.core.method import Method
from fer.methods.eac import attention_consistency_loss
from fer.models.cam import class_activation_maps
from fer.models.network import FaceNetwork
from fer.views.batch import ViewBatch
from fer.views.flip import mirror

SEEDS = st.integers(0, 2**32 - 1)


def gradients(method: Method, value: Tensor, **options: Any) -> dict[str, Any]:
    names, parameters = zip(*method.network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters, **options), strict=True))


def buffers_of(method: Method) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in method.network.named_buffers()}


# The consistency loss by itself.


def two_maps(seed: int, shape: tuple[int, int, int, int] = (3, 4, 2, 5)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return first, second


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), SEEDS)
def test_consistency_loss_is_the_mean_over_samples_classes_rows_and_columns(
    samples: int, classes: int, height: int, width: int, seed: int
) -> None:
    first, second = two_maps(seed, (samples, classes, height, width))
    total = 0.0
    for n in range(samples):
        for k in range(classes):
            for i in range(height):
                for j in range(width):
                    total += float(first[n, k, i, j] - second[n, k, i, width - 1 - j]) ** 2
    expected = total / (samples * classes * height * width)
    assert float(attention_consistency_loss(first, second)) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0, 3))
def test_consistency_loss_bounds_the_squared_difference_of_the_logits(seed: int, offset: float) -> None:
    first, second = two_maps(seed)
    second = offset + 0.3 * second
    bias = torch.linspace(-1, 1, first.shape[1], dtype=torch.float64)
    logits, logits_of_mirrored = first.mean((2, 3)) + bias, second.mean((2, 3)) + bias
    bound = (logits - logits_of_mirrored).square().mean()
    assert float(attention_consistency_loss(first, second)) >= float(bound) - 1e-12


def test_the_bound_is_attained_where_the_maps_differ_by_a_constant_per_class() -> None:
    first, _ = two_maps(0)
    difference = torch.arange(first.shape[1], dtype=torch.float64)[:, None, None]
    loss = attention_consistency_loss(first, mirror(first + difference))
    torch.testing.assert_close(loss, difference.square().mean(), rtol=1e-12, atol=0)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_consistency_loss_is_symmetric_in_the_views(seed: int) -> None:
    first, second = two_maps(seed)
    torch.testing.assert_close(
        attention_consistency_loss(first, second), attention_consistency_loss(second, first), rtol=1e-12, atol=0
    )


def test_consistency_loss_is_zero_for_mirrored_maps_only() -> None:
    first, _ = two_maps(0)
    assert attention_consistency_loss(first, mirror(first)) == 0
    assert attention_consistency_loss(first, first) > 0.1


def test_swapping_the_views_leaves_the_methods_consistency_loss_as_it_is() -> None:
    method = build(erase="independent")
    batch = with_views(method)
    first, second = batch.views
    there = method.loss(batch).parts
    back = method.loss(batch._replace(views=(second, first))).parts
    torch.testing.assert_close(there["loss_consistency"], back["loss_consistency"], rtol=1e-10, atol=0)
    assert (there["loss_cls"] - back["loss_cls"]).abs() > 1e-3, "the first view alone is classified"


# Where gradients go.


def test_consistency_trains_the_backbone_and_never_the_classifier() -> None:
    method = build()
    loss = method.loss(with_views(method))
    parts = gradients(method, loss.parts["loss_consistency"], allow_unused=True, retain_graph=True)
    assert parts.pop("classifier.weight") is None
    assert parts.pop("classifier.bias") is None
    assert all(value is not None and value.abs().max() > 0 for value in parts.values())
    # The classifier learns from the cross-entropy alone.
    alone = gradients(method, loss.parts["loss_cls"], retain_graph=True)
    whole = gradients(method, loss.total)
    for name in ("classifier.weight", "classifier.bias"):
        torch.testing.assert_close(whole[name], alone[name], rtol=0, atol=0)
        assert whole[name].abs().max() > 0


def test_consistency_trains_the_backbone_through_each_view() -> None:
    method = build()
    batch = with_views(method)
    weight = method.network.classifier.weight.detach()
    total = gradients(method, method.loss(batch).parts["loss_consistency"], allow_unused=True)
    first, second = (class_activation_maps(method.network(view)[0], weight) for view in batch.views)
    through_first = gradients(method, attention_consistency_loss(first, second.detach()), allow_unused=True)
    through_second = gradients(method, attention_consistency_loss(first.detach(), second), allow_unused=True)
    convolutions = [name for name, parameter in method.network.named_parameters() if parameter.ndim == 4]
    assert len(convolutions) > 8
    for name in convolutions:
        assert through_first[name].abs().max() > 0
        assert through_second[name].abs().max() > 0
        torch.testing.assert_close(total[name], through_first[name] + through_second[name], rtol=1e-9, atol=1e-12)


def test_only_the_first_view_is_classified() -> None:
    method = build()
    batch = with_views(method)
    first, second = (view.clone().requires_grad_() for view in batch.views)
    loss = method.loss(batch._replace(views=(first, second)))
    both: Any = torch.autograd.grad(loss.parts["loss_cls"], (first, second), allow_unused=True, retain_graph=True)
    assert both[0].abs().max() > 0
    assert both[1] is None
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(loss.parts["loss_consistency"], (first, second)))
    torch.testing.assert_close(loss.logits, copy.deepcopy(method.network)(first)[1], rtol=0, atol=1e-12)


# The whole step.


def reference_loss(network: FaceNetwork, state: dict[str, Tensor], batch: ViewBatch, lam: float) -> Tensor:
    """The loss from the paper's formulas; moves the running statistics inside ``state``."""
    maps, logits = [], []
    for view in batch.views:
        features, _ = functional_call(network, state, (view,))
        weight, bias = state["classifier.weight"], state["classifier.bias"]
        logits.append((features.sum((2, 3)) / features[0, 0].numel()) @ weight.T + bias)
        maps.append((weight.detach()[None, :, :, None, None] * features[:, None]).sum(2))
    rows = torch.arange(len(batch.label))
    loss_cls = -logits[0].log_softmax(1)[rows, batch.label].mean()
    height, width = maps[1].shape[2:]
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (height, width))
    grid = torch.stack([-x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    mirrored = F.grid_sample(
        maps[1], grid.expand(len(rows), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=True
    )
    loss: Tensor = loss_cls + lam * (maps[0] - mirrored).pow(2).sum() / mirrored.numel()
    return loss


def reference_training(network: FaceNetwork, batches: list[ViewBatch], lam: float) -> dict[str, Tensor]:
    """Adam (Kingma & Ba 2015, algorithm 1) with weight decay as L2; the learning rate falls after every batch."""
    parameters = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    statistics = {name: b.clone() for name, b in network.named_buffers()}
    first = {name: torch.zeros_like(p) for name, p in parameters.items()}
    second = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for step, batch in enumerate(batches, start=1):
        loss = reference_loss(network, {**parameters, **statistics}, batch, lam)
        slopes = torch.autograd.grad(loss, list(parameters.values()))
        rate = LR * GAMMA ** (step - 1)
        for (name, parameter), slope in zip(list(parameters.items()), slopes, strict=True):
            g = slope + WEIGHT_DECAY * parameter.detach()
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            m, v = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            parameters[name] = (parameter.detach() - rate * m / (v.sqrt() + 1e-8)).requires_grad_()
    return {**parameters, **statistics}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("erase", ["shared", "independent"])
def test_training_equals_an_independent_calculation(erase: str, steps: int) -> None:
    method = build(lam=5.0, erase=erase, forward="two_pass")
    batches = [with_views(method, seed=seed) for seed in range(steps)]
    expected = reference_training(copy.deepcopy(method.network), batches, lam=5.0)
    before = copy.deepcopy(method.network.state_dict())

    configured = method.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "epoch"
    for batch in batches:
        optimizer.zero_grad()
        method.loss(batch).total.backward()
        optimizer.step()
        scheduler.step()
    state = method.network.state_dict()
    assert set(state) == set(expected)
    torch.testing.assert_close(dict(state), {n: expected[n].detach() for n in state}, rtol=0, atol=1e-9)
    assert not [name for name, value in state.items() if torch.equal(value, before[name])], "everything moves"


def test_the_total_is_cross_entropy_plus_lam_times_consistency() -> None:
    method = build(lam=2.5)
    loss = method.loss(with_views(method))
    assert set(loss.parts) == {"loss_cls", "loss_consistency", "loss_consistency_weighted"}
    assert loss.logits.shape == (6, CLASSES)
    weighted = 2.5 * loss.parts["loss_consistency"]
    torch.testing.assert_close(loss.parts["loss_consistency_weighted"], weighted, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss.total, loss.parts["loss_cls"] + weighted, rtol=1e-12, atol=0)


# The ways to run both views.


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("count", [2, 5])
def test_joint_pass_with_statistics_per_view_is_two_passes(channels_last: bool, count: int) -> None:
    apart = build(forward="two_pass", channels_last=channels_last)
    joint = build(forward="joint_per_view_statistics", channels_last=channels_last)
    assert list(apart.network.state_dict()) == list(joint.network.state_dict())
    batch = with_views(apart, count)
    loss, loss_joint = apart.loss(batch), joint.loss(batch)

    torch.testing.assert_close(loss_joint.total, loss.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss_joint.logits, loss.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients(joint, loss_joint.total), gradients(apart, loss.total), rtol=1e-8, atol=1e-11)
    statistics = buffers_of(joint)
    torch.testing.assert_close(statistics, buffers_of(apart), rtol=0, atol=1e-12)
    assert all(value == 2 for name, value in statistics.items() if name.endswith("num_batches_tracked"))
    # In evaluation any batch, odd ones too, is normalized by the running statistics.
    view = batch.view[:1]
    torch.testing.assert_close(joint.eval().network(view)[1], apart.eval().network(view)[1], rtol=0, atol=1e-12)


def test_plain_joint_pass_is_another_algorithm() -> None:
    apart, joint = build(forward="two_pass", erase="independent"), build(forward="joint", erase="independent")
    batch = with_views(apart)
    loss, loss_joint = apart.loss(batch), joint.loss(batch)
    assert (loss.total - loss_joint.total).abs() > 1e-4
    assert not torch.allclose(loss.logits, loss_joint.logits, atol=1e-3)
    statistics = buffers_of(joint)
    assert all(value == 1 for name, value in statistics.items() if name.endswith("num_batches_tracked"))


def test_without_consistency_eac_learns_as_cross_entropy_but_moves_the_statistics_twice() -> None:
    eac, ce = build(lam=0.0, erase="independent"), build(CrossEntropy)
    loss, loss_ce = eac.loss(with_views(eac)), ce.loss(with_views(ce))
    assert torch.equal(loss.logits, loss_ce.logits)
    assert torch.equal(loss.total, loss_ce.total)
    torch.testing.assert_close(gradients(eac, loss.total), gradients(ce, loss_ce.total), rtol=0, atol=0)
    twice, once = buffers_of(eac), buffers_of(ce)
    for name, value in once.items():
        assert not torch.allclose(twice[name], value, rtol=1e-6, atol=0), name


@pytest.mark.parametrize("erase", ["shared", "independent"])
@pytest.mark.parametrize("noise", [None, True, False])
def test_the_control_trains_on_the_view_that_eac_classifies(erase: str, noise: bool | None) -> None:
    eac, ce = build(erase=erase, pixel_noise_on_second_view=noise), build(CrossEntropy)
    first, second = with_views(eac).views
    assert torch.equal(first, with_views(ce).view)
    # The switches reach the augmentation.
    torch.manual_seed(3)
    views = eac.augmentation.two_views(raw_images(), erase=erase, pixel_noise_on_second_view=noise)
    assert torch.equal(second, views[1])


@pytest.mark.parametrize(("clean", "erase"), [(True, "shared"), (False, "independent")])
def test_as_released_the_second_view_depends_on_whether_labels_are_clean(clean: bool, erase: str) -> None:
    method, expected = build(erase="released", labels_are_clean=clean), build(erase=erase)
    assert method.decided == {"method.erase": erase} and expected.decided == {}
    views, expected_views = with_views(method).views, with_views(expected).views
    assert all(torch.equal(a, b) for a, b in zip(views, expected_views, strict=True))
    # Erased rectangle and pixel noise are mirrored, or each is its own.
    assert torch.equal(views[1], mirror(views[0])) is clean
    assert method.hparams["erase"] == "released"


@pytest.mark.parametrize(("clean", "erase"), [(True, "shared"), (False, "independent")])
def test_as_released_loss_and_gradient_are_the_independent_calculation(clean: bool, erase: str) -> None:
    method = build(erase="released", labels_are_clean=clean)
    batch = with_views(method)
    torch.manual_seed(3)
    first, second = method.augmentation.two_views(raw_images(), erase=erase)
    by_hand = batch._replace(views=(first, second))

    def transcribed(twin: Any, _: ViewBatch) -> Tensor:
        network = twin.network
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        return reference_loss(network, state, by_hand, lam=5.0)

    assert_equal_to(transcribed, method, batch)


# What a user can set.


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"lam": math.nan}, "method.lam"),
        ({"lam": math.inf}, "method.lam"),
        ({"lam": -0.1}, "method.lam"),
        ({"erase": "both"}, "method.erase"),
        ({"forward": "one_pass"}, "method.forward"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} is .*{next(iter(values.values()))}"):
        build_configured(**values)


def test_hyper_parameters_are_the_plain_values_alone() -> None:
    expected: dict[str, Any] = {
        "lam": 2.0,
        "erase": "independent",
        "pixel_noise_on_second_view": True,
        "forward": "joint",
        "logit_adjustment": 0.5,
    }
    saved = dict(build(**expected).hparams)
    assert saved == expected
    assert [type(saved[name]) for name in expected] == [float, str, bool, str, float]
    assert dict(build().hparams) == {
        "lam": 5.0, "erase": "shared", "pixel_noise_on_second_view": None, "forward": "two_pass",
        "logit_adjustment": 0.0,
    }  # fmt: skip
    assert dict(build(CrossEntropy).hparams) == {
        "class_weights": None, "class_weight_beta": 0.999, "logit_adjustment": 0.0,
    }  # fmt: skip
