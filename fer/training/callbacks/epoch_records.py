"""Writes the record of every epoch and the checkpoint to resume from."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from fer.errors import TrainingError
from fer.methods.core.method import Method
from fer.runs.protocol import Protocol
from fer.runs.run_folder import RunFolder
from fer.training.callbacks.progress_bar import epoch_line, epochs_behind
from fer.training.checkpoints import WholeCheckpoints, copy_checkpoint
from fer.training.loggers.make import loggers_of
from fer.views.batch import Batch

log = logging.getLogger(__name__)

COSTS = ("seconds", "samples_per_second", "gpu_memory_gib")
"""Keys of a record that depend on the machine, so that they differ between two runs of the same command.

``seconds`` is a whole epoch's, ``samples_per_second`` that of training over all devices, ``gpu_memory_gib`` the most
that the first GPU, where there is one, has held at a time.
"""


class RunWriter(Checkpoint):
    """Appends to ``records.jsonl``, then replaces ``checkpoints/last.ckpt``, both after every epoch.

    The record comes first: a crash between the two leaves a record too many, which the resumed run drops and writes
    again. Where the protocol selects an epoch, ``best.ckpt`` keeps the earliest of the best ones.
    (A ``Checkpoint``, because Lightning calls these after the method has completed its record.)
    """

    def __init__(self, folder: RunFolder, checkpoints: WholeCheckpoints, protocol: Protocol) -> None:
        self.folder = folder
        self.protocol = protocol
        self.checkpoints = checkpoints
        self._started = self._epoch_started = time.perf_counter()
        self._behind = 0.0
        self._samples, self._training_seconds = 0, 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with _first_rank_writes(trainer, self.folder.best_checkpoint) as writes:
            if writes:
                self._keep_best()  # a crash may have happened between the two writes

    def state_dict(self) -> dict[str, float]:
        return {"samples": self._samples, "training_seconds": self._training_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._samples, self._training_seconds = state["samples"], state["training_seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started, self._behind = time.perf_counter(), epochs_behind(trainer)
        self._epoch_started = self._started - self._training_seconds  # left over from an interrupted epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_started, self._samples = time.perf_counter(), 0
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._samples += len(batch.label)
        self._training_seconds = time.perf_counter() - self._epoch_started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method) and trainer.max_epochs is not None
        epoch, now = trainer.current_epoch, time.perf_counter()
        metrics = {**pl_module.epoch_record, **self._costs(trainer, now - self._epoch_started)}
        with _first_rank_writes(trainer, self.folder.records_file) as writes:
            if writes:
                self.folder.append_record({"epoch": epoch, **metrics})
        if trainer.is_global_zero:
            left = (now - self._started) / (epoch + 1 - self._behind) * (trainer.max_epochs - epoch - 1)
            log.info("%s", epoch_line({"epoch": epoch, **metrics}, trainer.max_epochs, left))
        for logger in loggers_of(trainer):
            logger.log_epoch(metrics, epoch=epoch, step=trainer.global_step)
        trainer.save_checkpoint(self.folder.last_checkpoint)  # a collective under DDP
        with _first_rank_writes(trainer, self.folder.last_checkpoint) as writes:
            if writes and self.checkpoints.error is not None:
                raise self.checkpoints.error
            if writes:
                self.folder.interrupted_checkpoint.unlink(missing_ok=True)
                self._keep_best()

    def _keep_best(self) -> None:
        """Copy the checkpoint of the newest epoch if no earlier one was as good by what selects."""
        if self.protocol.is_best(self.folder.records()):
            copy_checkpoint(self.folder.last_checkpoint, self.folder.best_checkpoint)

    def _costs(self, trainer: L.Trainer, seconds: float) -> dict[str, float]:
        costs = {
            "seconds": seconds,
            "samples_per_second": self._samples * trainer.world_size / self._training_seconds,
        }
        device = trainer.strategy.root_device
        if device.type == "cuda":
            costs["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        return costs


@contextmanager
def _first_rank_writes(trainer: L.Trainer, file: Path) -> Iterator[bool]:
    """Tell whether this rank writes; if writing fails, every rank raises the error, so that none waits.

    Raises:
        TrainingError: the disk is full, or whatever else the system says.
    """
    failure = None
    try:
        yield trainer.is_global_zero
    except OSError as error:
        failure = (
            f"cannot write {file} in epoch {trainer.current_epoch + 1} ({error.strerror or error}); make room, and the "
            "same command goes on after the last whole epoch"
        )
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        raise TrainingError(failure)
