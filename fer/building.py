"""A method and its network from a configuration, and a rehearsal of that before any data is read."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fer.data.index import DatasetError, SampleTable
from fer.data.raf_db import CLASS_NAMES
from fer.errors import ConfigError, OtherClasses, UserError
from fer.instantiation import configured, instantiated
from fer.methods.base import Method, Setting
from fer.models.network import FaceNetwork

Config = Mapping[str, Any]


def build_method(
    config: Config,
    class_names: tuple[str, ...],
    given_labels: Tensor,
    *,
    evaluation_name: str = "test",
    with_weights: bool,
) -> Method:
    """The method of a configuration for a data set, freshly initialised.

    Args:
        config: resolved configuration, plain containers.
        class_names: K names.
        given_labels: int64 (N,), those of the training samples.
        evaluation_name: see ``Setting``.
        with_weights: whether the backbone loads its pretrained weights.

    Raises:
        ConfigError: a value does not fit; the message names it.
        WeightsError: the weights cannot be used.
    """
    backbone = dict(config["backbone"])
    if not with_weights:
        backbone["weights"] = None

    def build_network() -> FaceNetwork:
        features: nn.Module = instantiated(backbone, "backbone")
        if config["compile"]:
            mode = "default" if config["compile"] is True else config["compile"]
            # A graph for any batch size would take over from that of whole batches after the first partial one.
            features.compile(mode=mode, dynamic=False)
        return FaceNetwork(features, len(class_names), channels_last=config["channels_last"])

    setting = Setting(
        build_network=build_network,
        augmentation=instantiated(config["augment"], "augment"),
        optimizer=instantiated(config["optim"]["optimizer"], "optim.optimizer"),
        scheduler=instantiated(config["optim"]["scheduler"], "optim.scheduler"),
        class_names=class_names,
        given_labels=given_labels,
        evaluation_name=evaluation_name,
    )
    method: Method = configured(instantiated(config["method"], "method", _partial_=True), setting)
    return method


def rehearse(config: Config) -> None:
    """Build noise, method, network and optimiser once for a stand-in data set, and look at one of its feature maps.

    What the values alone tell is then told before data is read, which may take minutes.

    Raises:
        ConfigError, WeightsError: see ``build_method``.
    """
    count = len(CLASS_NAMES)
    table = SampleTable(
        name="stand-in",
        root=Path(),
        paths=tuple(Path(f"{number}.png") for number in range(2 * count)),
        labels=np.tile(np.arange(count), 2),
        is_train=np.repeat([True, False], count),
        class_names=CLASS_NAMES,
    )
    # What is refused for its classes or files may fit those of the real data.
    with suppress(OtherClasses, DatasetError):
        configured(instantiated(config["noise"], "noise"), table)
    with suppress(OtherClasses), _in_silence():
        method = build_method(config, CLASS_NAMES, torch.arange(count), with_weights=True)
        _rehearse_schedule(method, config["trainer"]["max_epochs"])
        face = torch.zeros(1, 3, config["data"]["store_size"], config["data"]["store_size"], dtype=torch.uint8)
        method.network.map_shape(method.augmentation.test_view(face).shape[-1])


def _rehearse_schedule(method: Method, epochs: int) -> None:
    """Walk through the learning rates of all epochs."""
    try:
        made = method.configure_optimizers()
        optimizer, plan = made["optimizer"], made["lr_scheduler"]
        assert isinstance(plan, dict)
        schedule = plan["scheduler"]
        for epoch in range(1, epochs + 1):
            rates = [group["lr"] for group in optimizer.param_groups]
            if not all(0 <= rate < math.inf for rate in rates):
                raise ConfigError(f"optim: the learning rate of epoch {epoch} would be {rates[0]}")
            optimizer.step()
            schedule.step()
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"optim: {error}") from error


@contextmanager
def _in_silence() -> Iterator[None]:
    """Weights are reported where they are loaded to stay."""
    logger = logging.getLogger("fer")
    logger.disabled, was_disabled = True, logger.disabled
    try:
        yield
    finally:
        logger.disabled = was_disabled
