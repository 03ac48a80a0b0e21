"""Fine-tuning of a backbone: its stages, their factors, and modules that stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fer.errors import ConfigError
from fer.models.backbones import Backbone, mobilenet_v2, resnet, tiny
from fer.models.batch_norm import (
    FrozenBatchNorm2d,
    keep_views_apart,
    make_groupable,
    reestimate_statistics,
    synchronize_statistics,
)
from fer.models.face_resnet import face_resnet29
from fer.models.fine_tuning import FineTuning, parameter_factors, stages
from fer.models.ir50 import ir50
from fer.models.vggface2 import vggface2_senet50

STEM = ["conv1", "bn1"]
STAGES: dict[str, tuple[Callable[[], Backbone], list[list[str]]]] = {
    "resnet18": (lambda: resnet(depth=18), [STEM, ["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
    "tiny": (lambda: tiny(width=8), [STEM, ["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
    "face_resnet29": (face_resnet29, [STEM, ["layer1"], ["layer2"], ["layer3"]]),
    "ir50": (ir50, [["input_layer"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
    "senet50_vggface2": (vggface2_senet50, [STEM, ["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
    "mobilenet_v2": (mobilenet_v2, [[f"features.{number}"] for number in range(19)]),
}


class WithPositions(nn.Module):
    """A backbone with a parameter of its own, and layers at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1))
        self.stem = nn.Conv2d(3, 8, 1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.act = nn.ReLU()
        self.last = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_learns_at_the_decay_times_the_rate_of_the_next(name: str) -> None:
    build, expected = STAGES[name]
    backbone = build()
    assert [[*stage] for stage in stages(backbone)] == expected
    assert not parameter_factors(backbone)
    FineTuning(layer_decay=0.5).apply(backbone)
    factors = parameter_factors(backbone)
    assert len(factors) == len([*backbone.parameters()])
    for number, names in enumerate(reversed(expected), 1):
        for parameter in (parameter for part in names for parameter in backbone.get_submodule(part).parameters()):
            assert factors[id(parameter)] == 0.5**number


def test_neighboring_layers_are_a_stage_and_other_parameters_belong_to_the_first() -> None:
    backbone = WithPositions()
    assert [[*stage] for stage in stages(backbone)] == [["stem"], ["block"], ["last", "norm"]]
    FineTuning(layer_decay=0.5).apply(backbone)
    assert parameter_factors(backbone)[id(backbone.positions)] == 0.125
    assert [[*stage] for stage in stages(nn.Sequential(nn.Conv2d(3, 8, 1)))] == [["0"]]


def test_frozen_modules_neither_learn_nor_move_their_statistics() -> None:
    backbone = tiny(width=8)
    FineTuning(frozen=("conv1", "bn1", "layer2")).apply(backbone)
    assert not any(parameter.requires_grad for parameter in backbone.bn1.parameters())
    assert all(parameter.requires_grad for parameter in backbone.layer1.parameters())
    before = copy.deepcopy(backbone.state_dict())
    backbone.train()(torch.randn(4, 3, 32, 32))
    moved = {name.partition(".")[0] for name, value in backbone.state_dict().items() if not value.equal(before[name])}
    assert moved == {"layer1", "layer3", "layer4"}


@pytest.mark.parametrize("name", STAGES)
def test_the_first_two_stages_of_every_backbone_can_be_frozen(name: str) -> None:
    build, ((*first,), (*second,), *_) = STAGES[name]
    backbone = build()
    FineTuning(frozen=(*first, *second)).apply(backbone)
    backbone.train()(torch.randn(2, 3, 64, 64)).square().sum().backward()
    still = {id(parameter) for part in (*first, *second) for parameter in backbone.get_submodule(part).parameters()}
    assert all((parameter.grad is None) == (id(parameter) in still) for parameter in backbone.parameters())


def test_frozen_batch_norm_still_learns_its_scales_whatever_it_would_be_turned_into() -> None:
    backbone = tiny(width=8)
    FineTuning(frozen_batch_norm=True).apply(backbone)
    copied = copy.deepcopy(backbone).train()
    reestimate_statistics(copied, [lambda: copied(torch.randn(4, 3, 32, 32))])
    for turn in (keep_views_apart, make_groupable, lambda net: synchronize_statistics(net, torch.device("cpu"))):
        turn(copied)
    norms = [module for module in copied.train().modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(type(norm) is FrozenBatchNorm2d and not norm.training for norm in norms)
    copied(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(norm.weight.grad is not None and not norm.running_mean.any() for norm in norms)
    assert copied.state_dict().keys() == tiny(width=8).state_dict().keys()


@pytest.mark.parametrize("name", ["layer9", "relu", ""])
def test_an_unknown_module_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=f"holds '{name}', .*TinyResNet, .*choose from conv1, bn1, layer1, layer2"):
        FineTuning(frozen=(name,)).apply(tiny(width=8))


def test_statistics_of_another_batch_norm_cannot_be_kept() -> None:
    with pytest.raises(TypeError, match="BatchNorm1d cannot keep its statistics"):
        FineTuning(frozen_batch_norm=True).apply(nn.Sequential(nn.BatchNorm1d(3)))
