"""Batches of stored images with their labels, and a loader of them that knows its place in an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from fer.data.images.store import ImageStore
from fer.data.loading.samplers import RankBatches
from fer.data.table import IntArray
from fer.views.batch import Batch


class FaceDataset(Dataset[Batch]):
    """Rows of a table as whole batches of uint8 images: ``dataset.__getitems__([3, 1, 4])`` is a ``Batch`` of three.

    Args:
        store: decoded images of the table.
        rows: table rows of the split, (n,); ``batch.index`` counts along them.
        given: labels in force, (n,).
        clean: true labels, (n,), -1 where unknown.
        votes: shares of several annotators, float32 (n, K), or ``None``.
    """

    def __init__(
        self,
        store: ImageStore,
        rows: IntArray,
        given: IntArray,
        clean: IntArray,
        votes: NDArray[np.float32] | None = None,
    ) -> None:
        self.store = store
        self.rows = rows
        self.given = given
        self.clean = clean
        self.votes = votes

    @property
    def labels_are_clean(self) -> bool:
        """Tell whether every given label is the true one."""
        return bool((self.given == self.clean).all())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = np.asarray(indices, dtype=np.int64)  # int64 also for an empty list
        return Batch(
            image=torch.from_numpy(self.store.images[self.rows[chosen]]),
            label=torch.from_numpy(self.given[chosen]),
            clean_label=torch.from_numpy(self.clean[chosen]),
            index=torch.from_numpy(chosen),
            votes=None if self.votes is None else torch.from_numpy(self.votes[chosen]),
        )


class TrainingLoader(DataLoader[Batch]):
    """Loader of training batches that knows its place in an epoch, which Lightning keeps in checkpoints."""

    batch_sampler: RankBatches
    _given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._given = self.batch_sampler.left_out
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.batch_sampler.epoch, "batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batch_sampler.leave_out(state["batches"], epoch=state["epoch"])
