"""Learning rates of stages and groups, their schedules, and what stays frozen while a method trains."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.configured import configured
from support.small_methods import CLASSES, LR, build, with_views
from torch import nn

from fer.errors import ConfigError
from fer.methods.ce import CrossEntropy
from fer.methods.co_teaching import CoTeaching
from fer.methods.core.parameter_groups import by_stage
from fer.methods.core.schedules import cosine, plateaus
from fer.methods.dmue import DMUE
from fer.methods.eac import EAC
from fer.methods.rul import RUL
from fer.models.backbones import Backbone, tiny
from fer.models.fine_tuning import FineTuning

METHODS: dict[str, Any] = {
    "ce": partial(build, CrossEntropy),
    "eac": partial(build, EAC, forward="joint_per_view_statistics"),
    "co_teaching": partial(build, CoTeaching, noise_ratio=0.3, ramp=0),
    "rul": partial(build, RUL),
    "dmue": partial(build, DMUE, learn_neck=True),
}


def fine_tuned(**values: Any) -> Backbone:
    backbone = tiny(width=8)
    FineTuning(**values).apply(backbone)
    return backbone


def one_group() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)


def rates(optimizer: torch.optim.Optimizer, schedule: Any, epochs: int) -> list[float]:
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@given(st.integers(1, 40), st.integers(0, 40), st.floats(0, 1))
def test_the_cosine_begins_with_a_linear_rise(epochs: int, warm_up: int, final: float) -> None:
    warm_up = min(warm_up, epochs)
    expected = [LR * (epoch + 1) / (warm_up + 1) for epoch in range(warm_up)]
    expected += [
        LR * (final + 0.5 * (1 - final) * (1 + math.cos(math.pi * epoch / (epochs - warm_up))))
        for epoch in range(epochs - warm_up)
    ]
    optimizer = one_group()
    found = rates(optimizer, cosine(optimizer, epochs=epochs, warm_up=warm_up, final_factor=final), epochs)
    assert found == pytest.approx(expected)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR * final)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"epochs": 3, "warm_up": 4}, "a warm-up of 4 epochs is longer than the training of 3"),
        ({"epochs": 0}, "scheduler.epochs is 0"),
        ({"epochs": 3, "warm_up": -1}, "scheduler.warm_up is -1"),
        ({"epochs": 3, "final_factor": 1.5}, "scheduler.final_factor is 1.5"),
    ],
)
def test_a_cosine_that_cannot_be_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        configured("scheduler", cosine, partial(cosine, one_group()), **values)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=5)
@given(decay=st.floats(0.1, 1))
def test_groups_partition_the_parameters(name: str, decay: float) -> None:
    method = METHODS[name](backbone=lambda: fine_tuned(layer_decay=decay, frozen=("conv1",)))
    groups = method.configure_optimizers()["optimizer"].param_groups
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(map(id, method.parameters()))
    for group in groups:
        assert group["lr"] == pytest.approx(LR * group.get("lr_factor", 1) * group.get("stage_factor", 1))


@pytest.mark.parametrize("name", METHODS)
def test_without_decay_groups_are_the_methods_own(name: str) -> None:
    method = METHODS[name](backbone=lambda: fine_tuned(frozen=("conv1",), frozen_batch_norm=True))
    own = method.parameter_groups()
    assert by_stage(method, own) is own


def rate_of(method: Any) -> dict[str, float]:
    """The learning rate of each parameter by name, over the optimizer's."""
    groups = method.configure_optimizers()["optimizer"].param_groups
    found = {id(parameter): group["lr"] / LR for group in groups for parameter in group["params"]}
    return {name: found[id(parameter)] for name, parameter in method.named_parameters()}


def test_copied_branches_and_second_networks_learn_as_their_originals() -> None:
    dmue = rate_of(METHODS["dmue"](backbone=lambda: fine_tuned(layer_decay=0.5)))
    assert {rate for name, rate in dmue.items() if name.startswith(("branches.", "network.backbone.layer4."))} == {0.5}
    assert {rate for name, rate in dmue.items() if "classifier" in name} == {10}
    assert dmue["certainty.0.weight"] == 1 and dmue["network.backbone.conv1.weight"] == 0.5**5
    assert len([name for name in dmue if name.startswith("branches.")]) > CLASSES
    both = rate_of(METHODS["co_teaching"](backbone=lambda: fine_tuned(layer_decay=0.5)))
    for name in ("backbone.bn1.bias", "backbone.layer1.conv1.weight", "classifier.weight"):
        assert both[f"network.{name}"] == both[f"second_network.{name}"]


def test_plateaus_take_slow_stages_for_no_faster_groups() -> None:
    method = METHODS["rul"](backbone=lambda: fine_tuned(layer_decay=0.5))
    optimizer = method.configure_optimizers()["optimizer"]
    plateaus(optimizer, starts=[0], factors=[1.0], fast_starts=[0], fast_factors=[0.25])
    for group in optimizer.param_groups:
        expected = group["stage_factor"] * (0.25 * group["lr_factor"] if "lr_factor" in group else 1)
        assert group["lr"] == pytest.approx(LR * expected)


@pytest.mark.parametrize("name", ["eac", "co_teaching", "dmue"])
def test_frozen_stages_are_the_same_after_training(name: str) -> None:
    method = METHODS[name](backbone=lambda: fine_tuned(frozen=("conv1", "bn1", "layer4"), layer_decay=0.5))
    frozen = ("conv1.", "bn1.", "layer4.")
    optimizer = method.configure_optimizers()["optimizer"]
    before = {key: value.clone() for key, value in method.state_dict().items()}
    for seed in range(2):
        optimizer.zero_grad()
        method.loss(with_views(method, seed=seed)).total.backward()
        optimizer.step()
    for key, value in method.state_dict().items():
        inside = key.partition("backbone.")[2]
        if inside.startswith(frozen) or key.startswith("branches."):
            assert value.equal(before[key]), key
        elif inside.startswith("layer1."):
            assert not value.equal(before[key]), key
