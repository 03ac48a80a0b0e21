"""Batches of row numbers: shuffled from (seed, epoch) and exact under DDP, with no sample counted twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from fer.data.table import IntArray


class RankBatches(Sampler[list[int]]):
    """Splits ``rows`` into batches of ``batch_size`` over all ranks and gives each rank its share of every batch.

    Rank r takes every ``world_size``-th sample of each batch, so the union over ranks of a step is what one device
    would see. A last batch with fewer than two samples for every rank is left out of training, where every rank must
    take part in every step and BatchNorm of feature vectors asks for two; in evaluation the ranks without a share skip
    it. A rank without any sample to evaluate is given one empty batch, because Lightning ends an evaluation without
    batches before the ranks meet.

    Args:
        rows: what to draw from.
        batch_size: total over all ranks.
        shuffle_seed: order for training; ``None`` keeps the order of the rows, for evaluation.
        rank, world_size: this process among all.

    Raises:
        ValueError: the batch size does not divide evenly among the ranks, or there are fewer than two samples for
            every rank to train on.
    """

    def __init__(
        self, rows: IntArray, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size={batch_size} is the total over all devices and must divide evenly among {world_size}; "
                f"choose a multiple of {world_size}"
            )
        if shuffle_seed is not None and len(rows) < 2 * world_size:
            raise ValueError(f"{len(rows)} training samples are too few: every device needs two in each step")
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._trained = (0, 0)

    @property
    def sampler(self) -> RankBatches:
        """The object itself: Lightning looks for this attribute in a batch sampler and calls its ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, as Lightning does before every epoch."""
        self.epoch = epoch

    def leave_out(self, batches: int, *, epoch: int) -> None:
        """Skip the first ``batches`` of an epoch, which were trained on before an interruption."""
        self._trained = (epoch, batches)

    @property
    def left_out(self) -> int:
        """Number of batches of the current epoch that are skipped."""
        epoch, batches = self._trained
        return batches if epoch == self.epoch else 0

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.rows
        if self.shuffle_seed is not None:
            rows = np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(rows)
        first, end = self.left_out * self.batch_size, len(self) * self.batch_size
        for start in range(first, end, self.batch_size):
            yield rows[start : start + self.batch_size][self.rank :: self.world_size].tolist()

    def __len__(self) -> int:
        """Count all batches of an epoch, including those that are skipped on resume."""
        whole, rest = divmod(len(self.rows), self.batch_size)
        if self.shuffle_seed is not None:
            return whole + (rest >= 2 * self.world_size)
        return max(whole + (rest > self.rank), min(len(self.rows), 1))
