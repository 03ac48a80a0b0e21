"""A method with its network, and the data, from a configuration; and a rehearsal before any data is read."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fer.config.instantiate import call_configured, instantiate_node
from fer.config.settings import Settings
from fer.data.loading.datamodule import FaceDataModule
from fer.data.readers.raf_db import CLASS_NAMES
from fer.data.table import DatasetError, SampleTable
from fer.errors import ConfigError, OtherClasses, UserError
from fer.methods.core.method import Method, Setting
from fer.models.fine_tuning import FineTuning
from fer.models.network import FaceNetwork

_DATAMODULE_KEYS = (
    "cache_dir", "image_cache", "batch_size", "train_samples", "sampling", "protocol", "holdout_share", "folds", "fold",
    "persons", "seed", "num_workers", "soft_labels",
)  # fmt: skip


def build_method(
    settings: Settings,
    class_names: tuple[str, ...],
    given_labels: Tensor,
    *,
    labels_are_clean: bool,
    evaluated_split: str = "test",
    for_training: bool,
) -> Method:
    """Build the method of a configuration for a data set, freshly initialized.

    Args:
        settings: of the run.
        class_names: K names.
        given_labels: int64 (N,), those of the training samples.
        labels_are_clean, evaluated_split: see ``Setting``.
        for_training: ``False`` builds neither optimizer nor schedule and loads no pretrained weights.

    Raises:
        ConfigError: a value does not fit; the message names it.
        WeightsError: the weights cannot be used.
    """
    backbone = dict(settings.backbone)
    if not for_training:
        backbone["weights"] = None

    optim = settings.optim if for_training else None

    def build_network() -> FaceNetwork:
        features: nn.Module = instantiate_node(backbone, "backbone", _partial_=False)
        if optim:
            FineTuning(optim.frozen, optim.layer_decay, optim.frozen_batch_norm).apply(features)
        if settings.compile:
            mode = "default" if settings.compile is True else settings.compile
            # With dynamic shapes, the first partial batch would replace the graph by a slower one for any batch size.
            features.compile(mode=mode, dynamic=False)
        return FaceNetwork(features, len(class_names), channels_last=settings.channels_last)

    setting = Setting(
        build_network=build_network,
        augmentation=instantiate_node(settings.augment, "augment", _partial_=False),
        optimizer=instantiate_node(optim.optimizer, "optim.optimizer") if optim else None,
        scheduler=instantiate_node(optim.scheduler, "optim.scheduler") if optim else None,
        class_names=class_names,
        given_labels=given_labels,
        labels_are_clean=labels_are_clean,
        evaluated_split=evaluated_split,
        soft_labels=settings.soft_labels,
        enough_votes=settings.evaluation.share if settings.evaluation.labels == "any" else None,
        samples_repeat=settings.sampling != "uniform",
    )
    method: Method = call_configured(instantiate_node(settings.method, "method", _partial_=True), setting)
    return method


def build_data(settings: Settings) -> FaceDataModule:
    """Read and decode the data of a configuration.

    Raises:
        ConfigError, DatasetError: they are not there or cannot be used.
    """
    datamodule = unread_data(settings)
    read_data(datamodule)
    return datamodule


def unread_data(settings: Settings) -> FaceDataModule:
    module: FaceDataModule = instantiate_node(
        {
            "_target_": "fer.data.loading.datamodule.FaceDataModule",
            "store_size": settings.data.store_size,
            "on_bad_image": settings.data.on_bad_image,
            **{key: getattr(settings, key) for key in _DATAMODULE_KEYS},
            "votes_in_tests": settings.evaluation.labels == "any",
        },
        read=instantiate_node(settings.data.reader, "data.reader", _partial_=True),
        noise=instantiate_node(settings.noise, "noise", _partial_=True),
    )
    return module


def read_data(datamodule: FaceDataModule) -> None:
    try:
        call_configured(datamodule.setup)
    except OSError as error:
        raise ConfigError(f"data cannot be read, or kept in cache_dir={datamodule.cache_dir}: {error}") from error


def rehearse(settings: Settings) -> None:
    """Build noise, method, network and optimizer once for a stand-in data set, and look at one of its feature maps.

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
    # Errors about classes or files do not count here: the real data may fit.
    with suppress(OtherClasses, DatasetError):
        call_configured(instantiate_node(settings.noise, "noise"), table)
    with suppress(OtherClasses), _in_silence():
        method = build_method(settings, CLASS_NAMES, torch.arange(count), labels_are_clean=True, for_training=True)
        _rehearse_schedule(method, settings.trainer.max_epochs)
        face = torch.zeros(1, 3, settings.data.store_size, settings.data.store_size, dtype=torch.uint8)
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
    """Silence the report of loaded weights; only the final load reports."""
    logger = logging.getLogger("fer")  # whose level counts for the loggers below it, as being disabled does not
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
