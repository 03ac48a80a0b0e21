"""A finished run, perhaps a stranger's, read back: its trained method, its data, and whether they belong together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer.config.instantiate import instantiate_node
from fer.config.settings import Settings
from fer.data.loading.datamodule import FaceDataModule
from fer.data.noise import labels_digest
from fer.errors import UserError
from fer.files.visible_text import visible
from fer.methods.core.method import Method
from fer.models.weights.load import value_fault
from fer.runs.predictions import read_class_names, read_labels
from fer.runs.protocol import protocol_named
from fer.runs.run_folder import RunFolder, RunFolderError
from fer.training.build import build_data, build_method
from fer.training.checkpoints import read_checkpoint
from fer.training.kept_config import ReadingOptions, check_data_root, read_kept_config


def trained(folder: RunFolder, device: str | torch.device = "cpu", options: ReadingOptions | None = None) -> Method:
    """Load the trained method of a finished run, in evaluation mode; its data need not be there.

    Raises:
        RunFolderError: the run is not finished, or a file of it cannot be read.
        ConfigError: its configuration names unknown code, or cannot be used.
    """
    folder.result()
    settings = read_kept_config(folder, options or ReadingOptions())
    checkpoint = protocol_named(settings.protocol).tested_checkpoint(folder)
    return filled(folder, settings, checkpoint).to(device).eval()


def filled(folder: RunFolder, settings: Settings, checkpoint: Path) -> Method:
    """Build the method of a finished run and fill it from a checkpoint; its settings are from ``read_kept_config``.

    Raises:
        RunFolderError, ConfigError: a file of the run cannot be read, or they do not fit each other.
    """
    samples = [sample for sample in read_labels(folder) if sample.is_trained]
    is_clean = all(sample.given == sample.clean for sample in samples)
    with any_fault_named(folder):
        _check_size(settings, checkpoint)
        method = build_method(
            settings.changed(compile=False),
            read_class_names(folder),
            torch.tensor([sample.given for sample in samples]),
            labels_are_clean=is_clean,
            for_training=False,
        )
    load(method, checkpoint)
    return method


def _check_size(settings: Settings, checkpoint: Path) -> None:
    """Compare the backbone's shapes with the checkpoint's before any memory is taken for them.

    Raises:
        RunFolderError: they differ.
    """
    state = read_checkpoint(checkpoint)["state_dict"]
    with torch.device("meta"):
        backbone: nn.Module = instantiate_node({**settings.backbone, "weights": None}, "backbone", _partial_=False)
    for name, wanted in backbone.state_dict().items():
        kept = state.get(f"network.backbone.{name}") if isinstance(state, dict) else None
        if not isinstance(kept, Tensor) or kept.shape != wanted.shape:
            raise RunFolderError(f"{checkpoint} does not fit the run's config.yaml (backbone, {name}); restore both")


@contextmanager
def any_fault_named(folder: RunFolder) -> Iterator[None]:
    """Say in one message that a kept configuration cannot be used, whatever its values make a constructor raise.

    Raises:
        RunFolderError: naming the file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = visible(f"{type(error).__name__}: {error}".strip().splitlines()[0])
        raise RunFolderError(f"{folder.config_file} does not describe a run that can be built ({reason})") from error


def kept_data(settings: Settings) -> FaceDataModule:
    """Read the data of a finished run, as ``read_kept_config`` reads its configuration.

    Raises:
        ConfigError, DatasetError: the data is not there or cannot be used.
    """
    check_data_root(settings)
    return build_data(settings)


def training_images(settings: Settings, most: int) -> NDArray[np.uint8]:
    """Read some of the images that a finished run was trained on, from all over them: uint8 (n, 3, size, size)."""
    train = kept_data(settings).train
    chosen = np.linspace(0, len(train) - 1, min(most, len(train))).astype(int)
    images: NDArray[np.uint8] = train.store.images[train.rows[chosen]]
    return images


def check_data(datamodule: FaceDataModule, folder: RunFolder) -> None:
    """Refuse data with other images or given labels than a run was trained on.

    Raises:
        RunFolderError: naming the folders of both.
    """
    stamp = folder.stamp()
    try:
        kept_images, kept_labels = stamp["data"]["images"], stamp["labels"]["given"]
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{folder.stamp_file} has no fingerprints of images and labels; restore it") from error
    for what, kept, now in (
        ("images", kept_images, datamodule.store.content_fingerprint),
        ("labels", kept_labels, labels_digest(datamodule.train.given)),
    ):
        if kept != now:
            raise RunFolderError(
                f"{folder.path} holds a run on other {what} than those in {datamodule.table.root}; choose another "
                "folder with output_dir=, or restore the data"
            )


def load(method: Method, checkpoint: Path) -> None:
    """Fill a method from a run's checkpoint.

    Raises:
        RunFolderError: the checkpoint cannot be read, does not fit, or holds what no trained network does.
    """
    state = read_checkpoint(checkpoint)["state_dict"]
    try:
        method.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # other names or shapes, or values that are not tensors
        reason = visible(str(error))
        raise RunFolderError(f"{checkpoint} does not fit the run's config.yaml ({reason}); restore both") from error
    if fault := value_fault({**dict(method.named_parameters()), **dict(_statistics(method))}):
        raise RunFolderError(f"{checkpoint}: {fault}; restore it, or remove the folder and train again")


def _statistics(method: Method) -> Iterator[tuple[str, Tensor]]:
    """Pick the running statistics of all BatchNorm layers; other buffers may hold infinity on purpose."""
    return ((name, values) for name, values in method.named_buffers() if "running_" in name)
