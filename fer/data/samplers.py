"""Batches of row numbers: shuffled from (seed, epoch) and exact under DDP, with no sample counted twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from fer.data.index import IntArray


class RankBatches(Sampler[list[int]]):
    """Splits ``rows`` into batches of ``batch_size`` over all ranks and gives each rank its share of every batch.

    Rank r takes every ``world_size``-th sample of each batch, so the union over ranks of a step is what one device
    would see. ``shuffle_seed=None`` keeps the order of the rows.

    Raises:
        ValueError: the batch size does not divide evenly among the ranks.
    """

    def __init__(
        self, rows: IntArray, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size={batch_size} is the total over all devices and must divide evenly among {world_size}; "
                f"choose a multiple of {world_size}"
            )
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.rows
        if self.shuffle_seed is not None:
            rows = np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(rows)
        for start in range(0, len(rows), self.batch_size):
            yield rows[start : start + self.batch_size][self.rank :: self.world_size].tolist()

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)
