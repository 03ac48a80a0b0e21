"""Seeds every random generator at each step."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch


def seed_everything(*entropy: int) -> None:
    """Seed Python's, numpy's and torch's generators (all devices) from non-negative integers."""
    words = np.random.SeedSequence(entropy).generate_state(4, np.uint32)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002, libraries still draw from it
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))


class Seeding(L.Callback):
    """Seeds from (seed, epoch, step, rank), so that a resumed run draws what an uninterrupted one would have."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed_everything(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
