"""Description of a run, as text in TensorBoard, and charts there of the metrics that belong together."""

from __future__ import annotations

import re
from functools import partial

import lightning.pytorch as L

from fer.runs.run_folder import RunFolder
from fer.training.callbacks.tensorboard import Showing, writers

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
    for writer in writers(trainer):
        for file in files:
            text = file.read_text(encoding="utf-8")
            writer.add_text(file.name, verbatim(text), trainer.current_epoch)
        writer.add_custom_scalars({
            category: {name: ["Multiline", tags] for name, tags in charts.items()}
            for category, charts in _CHARTS.items()
        })  # fmt: skip


def verbatim(text: str) -> str:
    """Put a text between fences longer than any in it: TensorBoard would take it for Markdown, with links and pictures.

    Control characters other than line ends become U+FFFD: the Markdown that TensorBoard uses keeps some for itself.
    """
    lines = [
        "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)
        for line in text.splitlines()
    ]
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
    return "\n".join([fence, *lines, fence])
