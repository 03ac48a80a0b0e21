"""Runs that are drawn, the names of their figures, and the data that the figures are made from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer.data.loading.datamodule import FaceDataModule
from fer.reports.epochs import epochs_of_networks
from fer.reports.merged_folds import out_of_fold
from fer.reports.run import Run
from fer.reports.table import Cell, Table
from fer.reports.wording import labeled, spell
from fer.runs.cams import CamRecord, read_cam_records
from fer.runs.predictions import SplitTable, read_class_names, read_predictions
from fer.runs.run_folder import RunFolder, RunFolderError
from fer.training.finished_run import check_data, kept_data
from fer.training.kept_config import ReadingOptions, read_kept_config

_IN_EVERY_TITLE = {"method", "backbone", "data", "noise", "noise.ratio", "seed"}


@dataclass(frozen=True, eq=False)
class Subject:
    """A finished run that is drawn."""

    run: Run
    name: str
    """Name in file names: the last parts of the folder's path, as many as distinguish the runs."""
    setting: str
    """Settings without the seed, for titles."""
    options: ReadingOptions
    """Options for reading the run's configuration."""

    @property
    def title(self) -> str:
        return f"{self.setting} · seed {spell(self.run.seed)}"

    @property
    def epoch(self) -> str:
        """Say after which epoch the network of its predictions and features was taken."""
        return epochs_of_networks(str(self.run.settings["protocol"]), [self.run.epochs])

    @cached_property
    def folder(self) -> RunFolder:
        return RunFolder(self.run.path)

    @cached_property
    def predictions(self) -> dict[str, SplitTable]:
        """Read the predictions of both splits; of a cross-validation the out-of-fold ones, for both."""
        if not self.run.folds:
            return read_predictions(self.folder)
        joined = out_of_fold(self.run)
        return {"test": replace(joined, clean=joined.given), "train": joined}

    @cached_property
    def data(self) -> FaceDataModule:
        """Read the images and labels that the run was trained on.

        Raises:
            UserError: they are not there, or others are.
        """
        data = kept_data(read_kept_config(self.folder, self.options))
        check_data(data, self.folder)
        return data

    @cached_property
    def cams(self) -> dict[int, CamRecord]:
        """Read the run's records of maps by epoch, at least one.

        Raises:
            RunFolderError: there is none, or one cannot be read or does not fit the run.
        """
        records = read_cam_records(self.folder)
        if not records:
            raise RunFolderError(f"{self.folder.cam_folder} holds no maps; a run keeps them while it trains")
        count = len(read_class_names(self.folder))
        for epoch, record in records.items():
            if record.probabilities.shape[1] != count:
                raise RunFolderError(
                    f"the maps of epoch {epoch} in {self.folder.cam_folder} are not of {count} classes"
                )
        return records

    def training_faces(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images (n, 3, h, w), as stored, of lines of the training split of ``predictions``.

        Raises:
            UserError: the data is not there, or the lines are of other data.
        """
        dataset = self.data.training_split if self.run.folds else self.data.train
        if not np.array_equal(dataset.given, self.predictions["train"].given):
            raise RunFolderError(f"{self.folder.predictions_file} does not list the samples of this run; restore it")
        images: NDArray[np.uint8] = dataset.store.images[dataset.rows[positions]]
        return images


def subjects(table: Table, options: ReadingOptions) -> list[list[Subject]]:
    """Group the finished runs by configuration, the lowest seed first."""
    names = _names([run for run in table.runs if run.state == "done"])
    settings = {place: _setting(table, cell) for place, cell in table.cells.items()}
    return [
        [Subject(run, names[run.path], settings[place], options) for run in finished]
        for place, cell in table.cells.items()
        if (finished := sorted((run for run in cell.runs if run.state == "done"), key=_seed))
    ]


def _seed(run: Run) -> tuple[bool, int, str]:
    """Sort key of a seed: numbers by size, before anything else."""
    return (False, run.seed, "") if isinstance(run.seed, int) else (True, 0, str(run.seed))


def _setting(table: Table, cell: Cell) -> str:
    get = cell.settings.get
    noise = ["noise", str(get("noise"))] + ([spell(get("noise.ratio"))] if get("noise.ratio") is not None else [])
    others = [
        labeled(key, get(key))
        for key in (*table.row_keys, *table.column_keys)
        if key not in _IN_EVERY_TITLE
        and get(key) is not None
        and len({run.settings.get(key) for run in table.runs}) > 1
    ]
    return " · ".join([str(get("method")), *others, str(get("backbone")), str(get("data")), " ".join(noise)])


def _names(runs: Sequence[Run]) -> dict[Path, str]:
    names: dict[Path, str] = {}
    for count in range(2, max((len(run.path.parts) for run in runs), default=0) + 1):
        names = {run.path: _name(run, count) for run in runs}
        if len(set(names.values())) == len(runs):
            break
    return names


def _name(run: Run, count: int) -> str:
    """Join the last ``count`` parts of a run's path, without the fold if it stands for all of them."""
    name = "-".join(run.path.parts[1:][-count:])
    return re.sub(r"-fold@\d+", "", name) if run.folds else name
