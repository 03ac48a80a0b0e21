"""Progress for people: a bar on a terminal, and one line per epoch for the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import RichProgressBar

_SHOWN = {
    "train/loss": ("loss", "{:.3f}"),
    "train/loss_consistency": ("consistency", "{:.2g}"),
    "train/acc": ("train/acc", "{:.3f}"),
    "train/memorized": ("memorized", "{:.3f}"),
    "train/recovered": ("recovered", "{:.3f}"),
    "holdout/acc": ("holdout/acc", "{:.4f}"),
    "test/acc": ("test/acc", "{:.4f}"),
}


def shown(record: Mapping[str, float]) -> dict[str, str]:
    """The metrics a person follows, under short names."""
    return {name: form.format(float(record[key])) for key, (name, form) in _SHOWN.items() if key in record}


def epoch_line(record: Mapping[str, float], epochs: int, seconds_left: float) -> str:
    """``epoch 3/60  loss 0.412  ...  0:12:05 left``."""
    values = "  ".join(f"{name} {value}" for name, value in shown(record).items())
    minutes, seconds = divmod(round(seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    return f"epoch {int(record['epoch']) + 1}/{epochs}  {values}  {hours}:{minutes:02}:{seconds:02} left"


class EpochBar(RichProgressBar):
    """Lightning's rich bar with the newest epoch's metrics.

    Scalars of the running step would cost a synchronisation with the device each.
    """

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return dict(shown({key: float(value) for key, value in trainer.callback_metrics.items()}))
