"""Passes over all training samples between two epochs, for methods that judge labels by their outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fer.methods.core.method import Method
from fer.models.batch_norm import share_statistics
from fer.views.batch import Batch, ViewBatch
from fer.views.random_seeds import seed_everything


@torch.no_grad()
def over_training_samples(
    method: Method, function: Callable[[ViewBatch], Tensor], *, augmented: bool = False
) -> Tensor:
    """Apply ``function`` to every training sample in evaluation mode: (N, ...) on the method's device, on all ranks.

    Costs a forward pass over the training set, held-out samples included.

    Args:
        method: its trainer is fitting a data module.
        function: gets a batch of one finished view (B, 3, H, W); returns floats (B, ...).
        augmented: show training views; their draws derive from the run's seed, the epoch, the batch and the rank.
    """
    trainer: Any = method.trainer
    if trainer.world_size > 1:
        share_statistics(method)
    was_training = {module for module in method.modules() if module.training}
    method.eval()
    found: list[tuple[Tensor, Tensor]] = []
    with trainer.precision_plugin.val_step_context():
        for number, loaded in enumerate(trainer.datamodule.train_in_order_dataloader()):
            batch: Batch = trainer.strategy.batch_to_device(loaded)
            if augmented:
                # Five numbers, so that these draws differ from those of every training step, which seeds from four.
                seed_everything(trainer.datamodule.seed, trainer.current_epoch, number, trainer.global_rank, 1)
            view = (method.augmentation.one_view if augmented else method.augmentation.test_view)(batch.image)
            found.append((batch.index, function(batch.seen_as(view)).float()))
    for module in was_training:
        module.training = True
    index, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    count = torch.tensor(float(len(index)), device=method.device)
    everything = values.new_zeros(int(method.sum_over_ranks(count)), *values.shape[1:])
    everything[index] = values
    return method.sum_over_ranks(everything)
