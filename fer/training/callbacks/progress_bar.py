"""Progress for people: one line per epoch, and below the newest of them a bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomTimeColumn

_SHARES = {
    "train/acc": ("train/acc", "{:.3f}"),
    "train/memorized": ("memorized", "{:.3f}"),
    "train/recovered": ("recovered", "{:.3f}"),
    "holdout/acc": ("holdout/acc", "{:.4f}"),
    "holdout/macro_acc": ("macro_acc", "{:.4f}"),
    "test/acc": ("test/acc", "{:.4f}"),
    "test/macro_acc": ("macro_acc", "{:.4f}"),
}
_WEIGHTED = "_weighted"


def epoch_line(record: Mapping[str, float], epochs: int, seconds_left: float) -> str:
    """``epoch 3/60  loss 0.412  cls 0.394  lam*consistency 0.0182  ...  0:12:05 left``."""
    values = [f"loss {record['train/loss']:.3f}", *_loss_parts(record)]
    values += [f"{name} {form.format(record[key])}" for key, (name, form) in _SHARES.items() if key in record]
    return "  ".join([f"epoch {int(record['epoch']) + 1}/{epochs}", *values, f"{_clock(seconds_left)} left"])


def epochs_behind(trainer: L.Trainer) -> float:
    """Count the epochs behind a training that starts, with the steps of one that goes on amid an epoch."""
    loop = trainer.fit_loop
    steps = loop.epoch_loop.batch_progress.current.ready if loop.restarted_mid_epoch else 0
    return trainer.current_epoch + steps / loop.max_batches


def _loss_parts(record: Mapping[str, float]) -> list[str]:
    """Pick what a method reports of its loss; a part that is there with its weight is shown with it."""
    parts = {key.removeprefix("train/loss_"): value for key, value in record.items() if key.startswith("train/loss_")}
    return [
        f"lam*{name.removesuffix(_WEIGHTED)} {value:.3g}" if name.endswith(_WEIGHTED) else f"{name} {value:.3g}"
        for name, value in parts.items()
        if f"{name}{_WEIGHTED}" not in parts
    ]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


class EpochBar(RichProgressBar):
    """Lightning's rich bar of the running epoch with the newest loss and the time that the run has left.

    The loss is read at the steps that are logged; at every step this would cost a synchronization with the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown = {"loss": "-", "left": "-:--:--"}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._started, self._behind = time.perf_counter(), epochs_behind(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert trainer.max_epochs is not None
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._shown["loss"] = f"{float(outputs['loss']):.3f}"
        done = trainer.current_epoch + (batch_idx + 1) / self.total_train_batches
        left = (trainer.max_epochs - done) / (done - self._behind) * (time.perf_counter() - self._started)
        self._shown["left"] = _clock(left)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return dict(self._shown)

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Choose the bar's columns, without the epoch's times."""
        return [column for column in super().configure_columns(trainer) if not isinstance(column, CustomTimeColumn)]

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"
