"""Seeds of all random generators at each step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L

from fer.views.random_seeds import seed_everything


class Seeding(L.Callback):
    """Seeds from (seed, epoch, step, rank), so that a resumed run draws what an uninterrupted one would have."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed_everything(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
