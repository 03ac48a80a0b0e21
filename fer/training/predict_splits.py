"""Per-sample outputs of a trained method: ``predictions.csv`` and what was memorized of the wrong labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, distributed

from fer.data.loading.datamodule import FaceDataModule
from fer.data.loading.face_dataset import FaceDataset
from fer.methods.core.method import Method

SplitPredictions = Mapping[str, Tensor]
"""``probabilities`` (n, K) and a method's own per-sample outputs (n,), in the order of the split."""

_CHUNK = 4096
"""Rows that are Python numbers at a time: those of a whole split would take a kilobyte for each of its samples."""


def predict(trainer: L.Trainer, method: Method, datamodule: FaceDataModule) -> dict[str, SplitPredictions]:
    """Predict the test split and the whole training split with all ranks, without augmentation."""
    loaders = {"test": datamodule.test_dataloader(), "train": datamodule.train_in_order_dataloader()}
    predictions: dict[str, SplitPredictions] = {}
    for split, loader in loaders.items():
        outputs: Any = trainer.predict(method, loader)
        batches = _from_all_ranks([{key: values.cpu() for key, values in batch.items()} for batch in outputs])
        joined = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
        order = joined.pop("index").argsort()
        predictions[split] = {key: values[order] for key, values in joined.items()}
    return predictions


def _from_all_ranks(batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return batches
    gathered: list[list[dict[str, Tensor]]] = [[]] * distributed.get_world_size()
    distributed.all_gather_object(gathered, batches)
    return [batch for rank in gathered for batch in rank]


def header(
    predictions: Mapping[str, SplitPredictions], class_names: tuple[str, ...], conclusions: Mapping[str, Tensor]
) -> list[str]:
    """Name the columns of ``predictions.csv``."""
    fixed = ["split", "file", "clean_label", "given_label", "predicted", "confidence"]
    return [*fixed, *_extra(predictions), *conclusions, *(f"p_{name}" for name in class_names)]


def rows(
    predictions: Mapping[str, SplitPredictions], datamodule: FaceDataModule, conclusions: Mapping[str, Tensor]
) -> Iterator[list[Any]]:
    """Make the rows of ``predictions.csv``: the test split, then the training split.

    Args:
        predictions: of both splits.
        datamodule: whose samples they are of.
        conclusions: of the method about the training labels, (N,) each; rows of the test split have none.
    """
    table = datamodule.table
    for split, dataset in (("test", datamodule.test), ("train", datamodule.train)):
        values = predictions[split]
        for start in range(0, len(dataset), _CHUNK):
            part = slice(start, start + _CHUNK)
            own: list[list[Any]] = [values[key][part].tolist() for key in _extra(predictions)]
            own += [_conclusion(split, key, all_rows[part], table.class_names) for key, all_rows in conclusions.items()]
            for position, p in enumerate(values["probabilities"][part].tolist()):
                best = max(range(len(p)), key=p.__getitem__)
                sample = start + position
                labels = (dataset.clean[sample], dataset.given[sample], best)
                names = [table.class_names[label] for label in labels]
                file = table.file_names[dataset.rows[sample]]
                extra = [column[position] for column in own]
                yield [split, file, *names, f"{p[best]:.6f}", *extra, *(f"{q:.6f}" for q in p)]


def _conclusion(split: str, name: str, values: Tensor, class_names: tuple[str, ...]) -> list[str]:
    """Write what a method concluded about training samples; the test split has empty cells."""
    if split == "test":
        return [""] * _CHUNK
    if name.endswith("_label"):
        return [class_names[label] for label in values.tolist()]
    return [f"{value:.6g}" for value in values.tolist()]


def memorization(train: FaceDataset, predictions: SplitPredictions) -> dict[str, float]:
    """Compute, among mislabeled training samples, the shares predicted as the given and as the true label."""
    predicted = predictions["probabilities"].argmax(1).numpy()
    wrong = train.given != train.clean
    if not wrong.any():
        return {}
    return {
        "memorized": float((predicted == train.given)[wrong].mean()),
        "recovered": float((predicted == train.clean)[wrong].mean()),
    }


def _extra(predictions: Mapping[str, SplitPredictions]) -> list[str]:
    return [key for key in predictions["test"] if key != "probabilities"]
