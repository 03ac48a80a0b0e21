"""Small methods in float64 on random images, for tests of formulas."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

from fer.methods.core.method import Method, Setting
from fer.methods.eac import EAC
from fer.models.backbones import tiny
from fer.models.network import FaceNetwork
from fer.views.augmentation import Augmentation
from fer.views.batch import Batch, ViewBatch
from support.configured import configured

CLASSES = 5
LR, WEIGHT_DECAY, GAMMA = 1e-2, 1e-4, 0.9


def build(
    method: Callable[..., Method] = EAC,
    *,
    channels_last: bool = True,
    class_names: tuple[str, ...] = tuple("abcde"),
    backbone: Callable[[], nn.Module] = lambda: tiny(width=8),
    labels_are_clean: bool = False,
    soft_labels: bool = False,
    **values: Any,
) -> Any:
    """Build a method in float64, always with the same initial weights."""
    torch.manual_seed(0)
    setting = Setting(
        build_network=lambda: FaceNetwork(backbone(), len(class_names), channels_last=channels_last),
        augmentation=Augmentation(size=32),
        optimizer=functools.partial(torch.optim.Adam, lr=LR, weight_decay=WEIGHT_DECAY),
        scheduler=functools.partial(ExponentialLR, gamma=GAMMA),
        class_names=class_names,
        given_labels=torch.arange(6) % CLASSES,
        labels_are_clean=labels_are_clean,
        soft_labels=soft_labels,
    )
    built = method(setting, **values).double()
    # BatchNorm statistics other than 0 and 1, and a bias other than 0, make mistakes in them visible.
    with torch.no_grad():
        for module in built.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return built.train()


def build_configured(method: Callable[..., Method] = EAC, **values: Any) -> Any:
    """Build a method from values of a configuration, which are checked against its signature.

    Raises:
        ConfigError: a value does not fit.
    """
    surroundings = {name: values.pop(name) for name in ("class_names", "backbone") if name in values}
    return configured("method", method, lambda **given: build(method, **surroundings, **given), **values)


def raw_images(count: int = 6) -> Tensor:
    return torch.randint(0, 256, (count, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def loaded(image: Tensor) -> Batch:
    """A batch as the loader would give it, of right labels."""
    label = torch.arange(len(image)) % CLASSES
    return Batch(image, label, label, torch.arange(len(image)))


def batch_of(*views: Tensor) -> ViewBatch:
    """A batch as a method's loss gets it, of right labels."""
    return loaded(views[0]).seen_as(*views)


def with_views(method: Method, count: int = 6, seed: int = 3) -> ViewBatch:
    torch.manual_seed(seed)
    return batch_of(*method.make_views(raw_images(count)))
