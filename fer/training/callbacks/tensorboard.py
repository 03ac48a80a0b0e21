"""Base class and helpers of callbacks that only show something of a run."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable

import google_crc32c
import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from torch.utils.tensorboard.writer import SummaryWriter

from fer.training.callbacks.tiles import Pixels

log = logging.getLogger(__name__)

_JPEG_QUALITY = 85

# TensorBoard's own function loops over bytes in Python: 15 ms for a picture of 100 kB, while training waits.
pywrap_tensorflow.crc32c = google_crc32c.value


class Showing(L.Callback):
    """Callback that cannot change a run: it does not use the random generators and never ends a run.

    Only the first rank shows anything; what it does in ``attempt`` must not wait for others.
    """

    def __init__(self) -> None:
        self._has_warned = False

    def attempt(self, trainer: L.Trainer, show: Callable[[], None]) -> None:
        """Show something on the first rank. The first error of a run is logged, and the run goes on."""
        if not trainer.is_global_zero:
            return
        device = trainer.strategy.root_device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                show()
        except Exception as error:  # any exception: a picture must not end a training
            if not self._has_warned:
                log.warning(
                    "%s left something out in epoch %d, and training goes on: %s: %s",
                    type(self).__name__, trainer.current_epoch + 1, type(error).__name__, error,
                )  # fmt: skip
            self._has_warned = True


def writers(trainer: L.Trainer) -> list[SummaryWriter]:
    """Writers of the run's event files; none where TensorBoard is not among its loggers."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def as_jpeg(picture: Pixels) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return encoded.getvalue()


def add_picture(writer: SummaryWriter, tag: str, picture: Pixels, step: int) -> None:
    """Add a picture as JPEG, a fifth of the size that ``SummaryWriter.add_image`` would make of a photograph."""
    height, width, _ = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=as_jpeg(picture))
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    writer.file_writer.add_summary(summary, step)  # type: ignore[attr-defined]
