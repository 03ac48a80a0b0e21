"""BatchNorm statistics estimated anew before each evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch

from fer.methods.core.method import Method
from fer.models.batch_norm import reestimate_statistics


class ReestimatedBatchNorm(L.Callback):
    """Replaces running statistics, before every evaluation in training, by those of training samples as tests see them.

    Running statistics follow about the last ten batches of augmented views, so that a test depends on their order. Here
    every statistic is the mean over ``batches`` batches of unaugmented samples, the same ones in every epoch. The
    checkpoints hold the new statistics: tests and predictions of the finished run use them. Training is not affected,
    but for methods that evaluate their network between steps.

    Args:
        batches: how many, 1 or more; all training samples if these are fewer.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches

    @torch.no_grad()
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        with trainer.precision_plugin.val_step_context():
            reestimate_statistics(pl_module, self._passes(trainer, pl_module))

    def _passes(self, trainer: Any, method: Method) -> Iterator[Callable[[], object]]:
        for loaded in trainer.datamodule.statistics_dataloader(self.batches):
            yield partial(method, trainer.strategy.batch_to_device(loaded).image)
