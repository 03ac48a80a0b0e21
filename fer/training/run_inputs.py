"""What a run writes before its first step: its labels, its stamp, and its earlier records cut to its checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np

from fer.data.loading.datamodule import FaceDataModule
from fer.data.noise import fingerprint, labels_digest
from fer.data.table import IntArray
from fer.files.csv_files import write_table
from fer.methods.core.method import Method
from fer.runs.run_folder import RunFolder

log = logging.getLogger(__name__)


def write_inputs(
    trainer: L.Trainer, method: Method, datamodule: FaceDataModule, folder: RunFolder, resume: Path | None, done: int
) -> None:
    """Write what a run starts from; its first rank calls this.

    Args:
        trainer, method, datamodule: of the run.
        folder: of the run.
        resume: checkpoint that it goes on from, if there is one.
        done: number of its finished epochs, whose records stay.
    """
    folder.last_checkpoint.parent.mkdir(exist_ok=True)
    if resume is None:
        folder.remove_pictures()
    elif resume == folder.interrupted_checkpoint:
        log.info("resuming amid epoch %d", done + 1)
    else:
        log.info("resuming after epoch %d", done)
    labels = "no label is wrong" if datamodule.train.labels_are_clean else "some labels are wrong"
    for key, value in method.decided.items():
        log.info("%s is %s here, because %s", key, value, labels)
    folder.keep_records_before(done)
    names, table = datamodule.table.class_names, datamodule.table
    train, split = datamodule.train, datamodule.training_split
    columns = [
        [table.file_names[row] for row in split.rows],
        [names[label] for label in split.clean],
        [names[label] for label in split.given],
    ]
    header = ["file", "clean_label", "given_label"]
    if datamodule.protocol.tests_on_fold:
        columns.append(["test" if is_tested else "train" for is_tested in datamodule.is_tested])
        header.append("split")
    write_table(folder.noise_file, header, zip(*columns, strict=True))
    folder.write_stamp({
        "data": {"root": str(table.root), "images": datamodule.store.content_fingerprint},
        "labels": {
            "given": labels_digest(train.given),
            "clean": labels_digest(_true_labels(datamodule)),
            "published_fingerprint": fingerprint(train.given),
            "changed": int((train.given != train.clean).sum()),
        },
        "device": str(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "resumed_after_epoch": done or None,
        **_origin(folder, resume),
    })  # fmt: skip


def _true_labels(datamodule: FaceDataModule) -> IntArray:
    """True labels of all images that are used, the same for every fold."""
    split, test = datamodule.training_split, datamodule.test
    return split.clean if datamodule.protocol.tests_on_fold else np.concatenate([split.clean, test.clean])


def _origin(folder: RunFolder, resume: Path | None) -> dict[str, Any]:
    """Keep what the stamp of a run says that continues another one."""
    origin = folder.stamp().get("continued_from") if resume is not None else None
    return {} if origin is None else {"continued_from": origin}
