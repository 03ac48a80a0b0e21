"""The LightningDataModule: a data set with its noise, served as uint8 batches."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from fer.data.images.store import ImageStore
from fer.data.loading.prepare import prepare
from fer.data.loading.samplers import ClassDraw, Draw, RankBatches, Sampling
from fer.data.table import BoolArray, IntArray, SampleTable
from fer.runs.protocol import protocol_named
from fer.views.batch import Batch

log = logging.getLogger(__name__)


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


class FaceDataModule(L.LightningDataModule):
    """Data set with its label noise.

    ``setup`` reads and decodes everything, so that all faults of the data appear before training. Training rows whose
    image cannot be decoded are left out where ``on_bad_image`` is ``skip``.

    Args:
        read: makes the sample table.
        noise: labels in force of the table's training rows, (N_train,).
        batch_size: total over all devices.
        train_samples: train on so many samples only, drawn alike for every seed and noise; ``None`` = all. A smaller
            draw lies inside a larger one.
        store_size: edge length in pixels of the decoded images.
        cache_dir: folder of the image stores.
        image_cache: ``False`` decodes at every start and keeps the store only while this process lives.
        on_bad_image: ``error`` or ``skip``.
        protocol: name of one of ``fer.runs.protocol.PROTOCOLS``; where it selects an epoch, a stratified share of the
            training split, with its labels in force, is held out and evaluated after every epoch.
        holdout_share: that share, in (0, 0.5].
        sampling: ``uniform``, every training sample once an epoch; ``balanced`` and ``progressive``, see ``ClassDraw``.
        seed: order of the training samples and choice of the holdout.
        num_workers: processes that fetch batches; 0 = the main process.
        soft_labels: give methods the votes of several annotators.
        votes_in_tests: give the votes of test samples.

    Raises:
        ValueError: ``train_samples`` below 1, or ``holdout_share`` outside (0, 0.5].
        DatasetError: from ``setup``, all faults of the data set.
    """

    def __init__(
        self,
        *,
        read: Callable[[], SampleTable],
        noise: Callable[[SampleTable], IntArray],
        batch_size: int,
        store_size: int,
        cache_dir: str | Path,
        on_bad_image: str = "error",
        protocol: str = "last5",
        holdout_share: float = 0.1,
        train_samples: int | None = None,
        sampling: Sampling = "uniform",
        seed: int = 0,
        num_workers: int = 0,
        image_cache: bool = True,
        soft_labels: bool = False,
        votes_in_tests: bool = False,
    ) -> None:
        super().__init__()
        if train_samples is not None and train_samples < 1:
            raise ValueError(f"train_samples is {train_samples}; it must be 1 or more, or null for all")
        if not 0 < holdout_share <= 0.5:
            raise ValueError(f"holdout_share is {holdout_share}; it must lie in (0, 0.5]")
        self.read = read
        self.noise = noise
        self.batch_size = batch_size
        self.store_size = store_size
        self.cache_dir = cache_dir if image_cache else None
        self.on_bad_image = on_bad_image
        self.protocol = protocol_named(protocol)
        self.holdout_share = holdout_share
        self.train_samples = train_samples
        self.sampling = sampling
        self.seed = seed
        self.num_workers = num_workers
        self.soft_labels = soft_labels
        self.votes_in_tests = votes_in_tests
        self.table: SampleTable

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "table"):
            return
        self.table, given, self.store = prepare(
            self.read, self.noise, size=self.store_size, cache_dir=self.cache_dir, on_bad_image=self.on_bad_image
        )
        for warning in (*self.table.warnings, *self.store.warnings):
            log.warning("%s", warning)
        chosen = self._chosen(~np.isin(self.table.train, self.store.bad))
        self.train = self._dataset(self.table.train[chosen], given[chosen], self.soft_labels)
        test = np.setdiff1d(self.table.test, self.store.bad)
        self.test = self._dataset(test, self.table.labels[test], self.votes_in_tests)
        self._check_votes()
        self.fit_rows, self.holdout_rows = self._split_holdout()

    @property
    def skipped(self) -> dict[str, int]:
        """Count the images of each split that are left out because they cannot be decoded."""
        train = int(self.table.is_train[self.store.bad].sum())
        return {"train": train, "test": len(self.store.bad) - train}

    @property
    def evaluated_split(self) -> str:
        """Name the split that is evaluated after every epoch: ``test`` or ``holdout``."""
        return self.protocol.evaluates

    @property
    def evaluation_labels(self) -> IntArray:
        """Labels of the split that is evaluated after every epoch."""
        return self.train.given[self.holdout_rows] if self.protocol.selects else self.test.given

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, self.fit_rows, shuffle_seed=self.seed, draw=self._draw())

    def val_dataloader(self) -> DataLoader[Batch]:
        if self.protocol.selects:
            return self._loader(self.train, self.holdout_rows)
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test, np.arange(len(self.test)))

    def train_in_order_dataloader(self) -> DataLoader[Batch]:
        """Load every training sample once, holdout included, in the order of the table."""
        return self._loader(self.train, np.arange(len(self.train)))

    def statistics_dataloader(self, batches: int) -> DataLoader[Batch]:
        """Load the same training samples every time, mixed, in so many whole batches, or all if these are fewer."""
        rows = np.random.default_rng([self.seed, len(self.fit_rows), batches]).permutation(self.fit_rows)
        whole = min(batches, len(rows) // self.batch_size) * self.batch_size
        return self._loader(self.train, rows[:whole] if whole else rows)

    def _dataset(self, rows: IntArray, given: IntArray, with_votes: bool) -> FaceDataset:
        votes = self.table.votes[rows].astype(np.float32) if with_votes and self.table.votes is not None else None
        return FaceDataset(self.store, rows, given, self.table.labels[rows], votes)

    def _check_votes(self) -> None:
        for key, wanted in (("soft_labels=true", self.soft_labels), ("evaluation.labels=any", self.votes_in_tests)):
            if wanted and self.table.votes is None:
                raise ValueError(f"{key} needs votes of several annotators, which {self.table.name} does not have")
        if self.soft_labels and not self.train.labels_are_clean:
            raise ValueError("soft_labels=true with label noise would tell methods the true labels; choose one of them")

    def _chosen(self, readable: BoolArray) -> IntArray:
        """Positions among the table's training rows that are used, ascending."""
        everything = np.flatnonzero(readable)
        if self.train_samples is None:
            return everything
        if self.train_samples > len(everything):
            raise ValueError(f"train_samples is {self.train_samples}, but there are {len(everything)} training samples")
        return np.sort(np.random.default_rng(len(readable)).permutation(everything)[: self.train_samples])

    def _split_holdout(self) -> tuple[IntArray, IntArray]:
        """Positions in the training split to train on and to hold out."""
        everything = np.arange(len(self.train))
        if not self.protocol.selects:
            return everything, everything[:0]
        generator = np.random.default_rng([self.seed, len(everything)])
        held = []
        for label in range(self.table.num_classes):
            members = generator.permutation(np.flatnonzero(self.train.given == label))
            held.append(members[: round(self.holdout_share * len(members))])
        holdout = np.sort(np.concatenate(held))
        if not len(holdout):
            raise ValueError(f"holdout_share={self.holdout_share} of {len(everything)} samples leaves none to hold out")
        return np.setdiff1d(everything, holdout), holdout

    def _draw(self) -> Draw | None:
        """Choose how the samples of an epoch are drawn, ``None`` for every one once."""
        if self.sampling == "uniform":
            return None
        epochs = None
        if self.sampling == "progressive":
            assert self.trainer is not None and self.trainer.max_epochs is not None
            epochs = self.trainer.max_epochs
        return ClassDraw(self.fit_rows, self.train.given[self.fit_rows], epochs=epochs)

    def _loader(
        self, dataset: FaceDataset, rows: IntArray, shuffle_seed: int | None = None, draw: Draw | None = None
    ) -> DataLoader[Batch]:
        trainer = self.trainer
        kind: type[DataLoader[Batch]] = DataLoader if shuffle_seed is None else TrainingLoader
        batches = RankBatches(
            rows,
            self.batch_size,
            shuffle_seed=shuffle_seed,
            draw=draw,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        return kind(
            dataset,
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            # Ranks are spawned processes; their workers would be too, each with half a gigabyte of imports.
            multiprocessing_context="fork" if self.num_workers and sys.platform == "linux" else None,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def _as_it_is(batch: Any) -> Batch:
    """Return a batch unchanged, since the data set gives whole batches."""
    assert isinstance(batch, Batch)
    return batch
