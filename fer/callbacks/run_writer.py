"""Writes the record of every epoch and the checkpoint to resume from."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from fer.batch import Batch
from fer.callbacks.progress import epoch_line
from fer.methods.base import Method
from fer.runs import RunFolder

log = logging.getLogger(__name__)

COSTS = ("seconds", "samples_per_second", "gpu_memory_gib")
"""Keys of a record that the machine decides upon, so that they differ between two runs of the same.

``seconds`` is a whole epoch's, ``samples_per_second`` that of training over all devices, ``gpu_memory_gib`` the most
that the first GPU, where there is one, has held at a time.
"""


class RunWriter(Checkpoint):
    """Appends to ``records.jsonl``, then replaces ``checkpoints/last.ckpt``, both after every epoch.

    The record comes first: a crash between the two leaves a record too many, which the resumed run drops and writes
    again. Under the holdout protocol ``best.ckpt`` keeps the earliest epoch with the best ``holdout/acc``.
    (A ``Checkpoint``, because Lightning calls these after the method has completed its record.)
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._started = self._epoch_started = time.perf_counter()
        self._first_epoch = 0
        self._samples, self._training_seconds = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started, self._first_epoch = time.perf_counter(), trainer.current_epoch

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
        if trainer.is_global_zero:
            self.folder.append_record({"epoch": epoch, **metrics})
            left = (now - self._started) / (epoch + 1 - self._first_epoch) * (trainer.max_epochs - epoch - 1)
            log.info("%s", epoch_line({"epoch": epoch, **metrics}, trainer.max_epochs, left))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=epoch)
        self._save(trainer)
        if trainer.is_global_zero and "holdout/acc" in metrics:
            earlier = [record["holdout/acc"] for record in self.folder.records()[:-1]]
            if not earlier or metrics["holdout/acc"] > max(earlier):
                _copy(self.folder.last_checkpoint, self.folder.best_checkpoint)

    def _costs(self, trainer: L.Trainer, seconds: float) -> dict[str, float]:
        costs = {
            "seconds": seconds,
            "samples_per_second": self._samples * trainer.world_size / self._training_seconds,
        }
        device = trainer.strategy.root_device
        if device.type == "cuda":
            costs["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        return costs

    def _save(self, trainer: L.Trainer) -> None:
        target = self.folder.last_checkpoint
        partial = _partial(target)
        trainer.save_checkpoint(partial)  # a collective under DDP
        if trainer.is_global_zero:
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(target)


def _copy(source: Path, target: Path) -> None:
    partial = _partial(target)
    shutil.copyfile(source, partial)
    partial.replace(target)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")
