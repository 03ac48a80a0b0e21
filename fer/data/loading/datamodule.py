"""The LightningDataModule: a data set with its noise, served as uint8 batches."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from fer.data.loading.face_dataset import FaceDataset, TrainingLoader
from fer.data.loading.partition import fold_of_each, held_out
from fer.data.loading.prepare import prepare
from fer.data.loading.samplers import ClassDraw, Draw, RankBatches, Sampling
from fer.data.persons import read_persons
from fer.data.table import BoolArray, IntArray, SampleTable
from fer.runs.protocol import protocol_named
from fer.views.batch import Batch

log = logging.getLogger(__name__)


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
        folds, fold: under ``folds``, parts that the training split is divided into, and the one, counted from 0, that
            is ``test`` with its labels in force; ``train`` is the rest.
        persons: list of who is on which image, see ``read_persons``; nobody is then on both sides of such a division.
        sampling: ``uniform``, every training sample once an epoch; ``balanced`` and ``progressive``, see ``ClassDraw``.
        seed: order of the training samples and choice of holdout and folds.
        num_workers: processes that fetch batches; 0 = the main process.
        soft_labels: give methods the votes of several annotators.
        votes_in_tests: give the votes of test samples.

    Raises:
        ValueError: ``train_samples`` below 1, ``holdout_share`` outside (0, 0.5], or ``fold`` outside 0..folds-1.
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
        folds: int = 5,
        fold: int = 0,
        persons: str | Path | None = None,
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
        if not 0 <= fold < folds:
            raise ValueError(f"fold is {fold}; it must be one of 0 to {folds - 1}, for folds={folds}")
        self.read = read
        self.noise = noise
        self.batch_size = batch_size
        self.store_size = store_size
        self.cache_dir = cache_dir if image_cache else None
        self.on_bad_image = on_bad_image
        self.protocol = protocol_named(protocol)
        self.holdout_share = holdout_share
        self.folds = folds
        self.fold = fold
        self.persons = persons
        self.train_samples = train_samples
        self.sampling = sampling
        self.seed = seed
        self.num_workers = num_workers
        self.soft_labels = soft_labels
        self.votes_in_tests = votes_in_tests
        self.table: SampleTable
        self.training_split: FaceDataset
        """The data set's training split as far as it is used, before any of it is held out or tested."""
        self.is_tested: BoolArray
        """Whether a sample of ``training_split`` is in the fold that is tested, (n,)."""

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "table"):
            return
        self.table, given, self.store = prepare(
            self.read,
            self.noise,
            size=self.store_size,
            cache_dir=self.cache_dir,
            on_bad_image=self.on_bad_image,
            needs_test=not self.protocol.tests_on_fold,
        )
        for warning in (*self.table.warnings, *self.store.warnings):
            log.warning("%s", warning)
        chosen = self._chosen(~np.isin(self.table.train, self.store.bad))
        rows, given = self.table.train[chosen], given[chosen]
        self.training_split = self._dataset(rows, given, self.soft_labels)
        persons = None if self.persons is None else read_persons(self.persons, self.table)[rows]
        self.is_tested = np.zeros(len(rows), dtype=np.bool_)
        if self.protocol.tests_on_fold:
            self.is_tested = fold_of_each(given, self.folds, seed=self.seed, persons=persons) == self.fold
            test, test_labels = rows[self.is_tested], given[self.is_tested]
        else:
            test = np.setdiff1d(self.table.test, self.store.bad)
            test_labels = self.table.labels[test]
        fit = ~self.is_tested
        self.train = self._dataset(rows[fit], given[fit], self.soft_labels)
        self.test = self._dataset(test, test_labels, self.votes_in_tests)
        self._check_votes()
        self.fit_rows, self.holdout_rows = self._split_holdout(None if persons is None else persons[fit])

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

    def _split_holdout(self, persons: IntArray | None) -> tuple[IntArray, IntArray]:
        """Positions in the training split to train on and to hold out."""
        everything = np.arange(len(self.train))
        if not self.protocol.selects:
            return everything, everything[:0]
        holdout = held_out(self.train.given, self.holdout_share, seed=self.seed, persons=persons)
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
