"""Description of a run as text, and charts of the metrics that belong together, for loggers that take these."""

from __future__ import annotations

from functools import partial

import lightning.pytorch as L

from fer.runs.run_folder import RunFolder
from fer.training.callbacks.showing import Showing
from fer.training.loggers.make import loggers_of

_CHARTS = {
    "evaluation": {
        "accuracy, mean class accuracy": ["(test|holdout)/(macro_)?acc$"],
        "recall of every class": ["(test|holdout)/recall/.*"],
    },
    "training": {
        "wrong labels memorized and recovered": ["train/(memorized|recovered)$"],
        "accuracy against given and true labels": ["train/acc(_clean)?$"],
        "loss and its weighted parts": ["train/loss$", "train/loss_cls$", "train/loss_consistency_weighted$"],
    },
}
"""Tags, as regular expressions, by category and chart."""


class RunCard(Showing):
    """Shows ``config.yaml`` and ``stamp.json`` under TEXT, and in CUSTOM SCALARS a few curves to a chart.

    A run that is resumed shows its new stamp at the epoch from which it goes on, one that continues another also its
    configuration.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.attempt(trainer, partial(_show, trainer))


def _show(trainer: L.Trainer) -> None:
    folder = RunFolder(trainer.default_root_dir)
    origin = folder.stamp().get("continued_from") or {"epochs": 0}
    is_new = trainer.current_epoch in (0, origin["epochs"])
    files = [folder.config_file, folder.stamp_file] if is_new else [folder.stamp_file]
    for logger in loggers_of(trainer):
        for file in files:
            logger.log_text(file.name, file.read_text(encoding="utf-8"), trainer.current_epoch)
        logger.log_charts(_CHARTS)
