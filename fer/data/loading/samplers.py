"""Batches of row numbers: drawn from (seed, epoch), exact under DDP, and with no sample evaluated twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from fer.data.table import IntArray

Sampling = Literal["uniform", "balanced", "progressive"]
"""Order of training: every sample once an epoch, classes equally often, or from the one to the other."""
Draw = Callable[[np.random.Generator, int], IntArray]
"""Rows of an epoch (N,), in the order of training, by a generator of its own and the epoch, from 0."""


class ClassDraw:
    """Draw of an epoch's samples with replacement: first a class, then one of its samples, each equally probable.

        p_j(t) = (1 - t / T) n_j / N + (t / T) 1 / K          in epoch t = 0..T-1 of T
        p_j    = 1 / K                                        without T

    The first is progressively balanced sampling, the second class-balanced sampling of B. Kang et al., "Decoupling
    Representation and Classifier for Long-Tailed Recognition", ICLR 2020, arXiv 1910.09217. K counts the classes that
    occur; no sample is ever drawn of another one. Their released code reaches 1 / K in the last epoch (t / (T - 1)) and
    goes through the samples of a class in turn; here the paper's equation is followed.

    Args:
        rows: what to draw from, (N,).
        labels: the given label of each row, (N,).
        epochs: T, 1 or more; ``None`` = without.
    """

    def __init__(self, rows: IntArray, labels: IntArray, *, epochs: int | None = None) -> None:
        order = np.argsort(labels, kind="stable")
        self._rows = rows[order]
        _, self._first, self._counts = np.unique(labels[order], return_index=True, return_counts=True)
        self._epochs = epochs

    def probabilities(self, epoch: int) -> NDArray[np.float64]:
        """Probability of every class that occurs, in ascending order of the labels, in an epoch from 0."""
        share = 1.0 if self._epochs is None else epoch / self._epochs
        p: NDArray[np.float64] = (1 - share) * self._counts / len(self._rows) + share / len(self._counts)
        return p

    def __call__(self, generator: np.random.Generator, epoch: int) -> IntArray:
        chosen = generator.choice(len(self._counts), size=len(self._rows), p=self.probabilities(epoch))
        drawn: IntArray = self._rows[self._first[chosen] + generator.integers(0, self._counts[chosen])]
        return drawn


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
        draw: how an epoch of training is drawn, as many samples as there are rows; ``None`` = every row once, shuffled.
        rank, world_size: this process among all.

    Raises:
        ValueError: the batch size does not divide evenly among the ranks, or there are fewer than two samples for
            every rank to train on.
    """

    def __init__(
        self,
        rows: IntArray,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        draw: Draw | None = None,
        rank: int = 0,
        world_size: int = 1,
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
        self.draw = draw
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
            generator = np.random.default_rng([self.shuffle_seed, self.epoch])
            rows = generator.permutation(rows) if self.draw is None else self.draw(generator, self.epoch)
        first, end = self.left_out * self.batch_size, len(self) * self.batch_size
        for start in range(first, end, self.batch_size):
            yield rows[start : start + self.batch_size][self.rank :: self.world_size].tolist()

    def __len__(self) -> int:
        """Count all batches of an epoch, including those that are skipped on resume."""
        whole, rest = divmod(len(self.rows), self.batch_size)
        if self.shuffle_seed is not None:
            return whole + (rest >= 2 * self.world_size)
        return max(whole + (rest > self.rank), min(len(self.rows), 1))
