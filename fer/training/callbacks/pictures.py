"""Pictures of what a network sees, where it looks and what it confuses."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fer.data.loading.datamodule import FaceDataModule
from fer.methods.core.explain import explain
from fer.methods.core.method import Method
from fer.ranges import CountFrom2
from fer.runs.cams import CamRecord
from fer.runs.run_folder import RunFolder
from fer.training.callbacks.showing import Showing
from fer.training.callbacks.shown_faces import evenly_spread, shown_test_faces, shown_wrong_labels
from fer.training.callbacks.tiles import Pixels, confusion_matrix, draw_ahead, rows_of_images
from fer.training.loggers.make import loggers_of
from fer.training.loggers.ways import as_jpeg
from fer.views.flip import mirror
from fer.views.heatmaps import overlay
from fer.views.resize import resize

_TILE = 64
"""Edge of a face in a picture, in pixels."""
_FACES_IN_VIEWS = 6
_DRAWS_OF_VIEWS = 3
Beside = Callable[..., None]
"""Takes a function and its arguments, to be called by another thread."""


class Pictures(Showing):
    """Draws after a few epochs, and writes the maps to the run folder, also where nothing is logged.

    For the loggers that take pictures:

    - ``views``, once, before training: a few training faces as the network is going to see them;
    - ``cam/test``: where it looks for the true and for the predicted class of a few test faces and of their mirror
      images;
    - ``cam/wrong_labels``: the same of a few training faces, and for the class of their wrong label;
    - ``confusion/test`` or ``confusion/holdout``: of the evaluation after that epoch.

    The faces are the same in every epoch, see ``fer.training.callbacks.shown_faces``. The run folder gets their
    ``CamRecord``. All this is drawn before the epoch's checkpoint is written: a run that is interrupted in between
    draws it again.

    Args:
        epochs: how many epochs end with pictures: the first, the last, and others evenly in between.
    """

    def __init__(self, *, epochs: CountFrom2 = 6) -> None:
        super().__init__()
        self.epochs = epochs
        self._faces: _ShownFaces | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        if trainer.current_epoch == 0:
            self.attempt(trainer, partial(_show_views, trainer, pl_module))
        self.attempt(trainer, partial(self._prepare, trainer, pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method) and trainer.max_epochs is not None
        if trainer.current_epoch not in chosen_epochs(self.epochs, trainer.max_epochs):
            return
        # On every rank, also if rank 0 fails to draw its pictures.
        confusion = pl_module.sum_over_ranks(pl_module.evaluation_metrics.confusion.clone())
        tasks: list[Future[None]] = []
        with ThreadPoolExecutor(1) as other:  # the disk and the encoder work while the next picture is drawn

            def beside(*task: Any) -> None:
                tasks.append(other.submit(*task))

            self.attempt(trainer, partial(self._show_maps, trainer, pl_module, beside))
            self.attempt(trainer, partial(_show_confusion, trainer, pl_module, confusion, beside))
        for task in tasks:
            self.attempt(trainer, task.result)

    def _prepare(self, trainer: L.Trainer, method: Method) -> None:
        """Choose the faces and do one throw-away pass, so that the first epoch does not wait for caches."""
        data: FaceDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._faces = _shown_faces(data, method)
        with trainer.precision_plugin.val_step_context():
            record = self._faces.seen_by(method)
        draw_ahead(_words_to_come(method.class_names))
        maps = _maps(record, self._faces.tile, np.arange(len(record.file)), method.class_names)
        support = np.bincount(data.evaluation_labels, minlength=method.num_classes)
        confusion = confusion_matrix(np.diag(support), method.class_names, _title(trainer, method))
        with ThreadPoolExecutor(1) as other:  # whose memory is new, too; what fails here will do so again
            for task in (partial(record.write_to, io.BytesIO()), partial(as_jpeg, maps), partial(as_jpeg, confusion)):
                other.submit(task)

    def _show_maps(self, trainer: L.Trainer, method: Method, beside: Beside) -> None:
        assert self._faces is not None
        with trainer.precision_plugin.val_step_context():
            record = self._faces.seen_by(method)
        beside(record.write, RunFolder(trainer.default_root_dir), trainer.current_epoch)
        for tag, split in (("cam/test", "test"), ("cam/wrong_labels", "train")):
            rows = np.flatnonzero(record.split == split)
            if len(rows) and (to := loggers_of(trainer)):
                picture = _maps(record, self._faces.tile, rows, method.class_names)
                for logger in to:
                    beside(logger.log_picture, tag, picture, trainer.current_epoch)


def chosen_epochs(count: int, of: int) -> set[int]:
    """``count`` of the epochs 0..of-1, or all where there are fewer: the first, the last, others evenly in between."""
    return {int(epoch) for epoch in np.linspace(0, of - 1, min(count, of)).round()}


@dataclass
class _ShownFaces:
    """N faces, the same ones in every epoch, and what need not be made of them again."""

    known: dict[str, NDArray[Any]]
    """The first five fields of a ``CamRecord``."""
    tile: Tensor
    """uint8 (N, 3, _TILE, _TILE)."""
    view: Tensor
    """Views of the faces, then of their mirror images, (2 N, 3, h, w)."""

    def seen_by(self, method: Method) -> CamRecord:
        """Record the method's present predictions and maps of the faces."""
        count = len(self.tile)
        explained = explain(method, self.view)
        probabilities, cam = explained.logits[:count].softmax(1).cpu().numpy(), explained.cam.half().cpu().numpy()
        return CamRecord(**self.known, probabilities=probabilities, cam=cam[:count], mirrored_cam=cam[count:])


def _shown_faces(data: FaceDataModule, method: Method) -> _ShownFaces:
    chosen = [
        ("test", data.test, shown_test_faces(data.test.clean)),
        ("train", data.train, shown_wrong_labels(data.train.clean, data.train.given, data.fit_rows)),
    ]
    rows = np.concatenate([dataset.rows[positions] for _, dataset, positions in chosen])
    known = {
        "split": np.concatenate([np.full(len(positions), split) for split, _, positions in chosen]),
        "file": np.array([data.table.file_names[row] for row in rows]),
        "image": method.augmentation.seen(torch.from_numpy(data.store.images[rows])).numpy(),
        "clean": np.concatenate([dataset.clean[positions] for _, dataset, positions in chosen]),
        "given": np.concatenate([dataset.given[positions] for _, dataset, positions in chosen]),
    }
    view = method.augmentation.test_view(torch.from_numpy(data.store.images[rows]).to(method.device))
    return _ShownFaces(known, resize(torch.from_numpy(known["image"]), _TILE), torch.cat([view, mirror(view)]))


def _show_views(trainer: L.Trainer, method: Method) -> None:
    data: FaceDataModule = trainer.datamodule  # type: ignore[attr-defined]
    positions = evenly_spread(data.fit_rows, _FACES_IN_VIEWS)
    batch = data.train.__getitems__(positions.tolist())
    tiles, column_names = [resize(batch.image, _TILE)], ["face"]
    for draw in range(_DRAWS_OF_VIEWS):
        views = method.make_views(batch.image.to(method.device))
        tiles += [resize(method.augmentation.denormalize(view).cpu(), _TILE) for view in views]
        column_names += [f"draw {draw + 1}\nview {number + 1}" for number in range(len(views))]
    names = [method.class_names[label] for label in batch.label.tolist()]
    new_groups = range(1, len(tiles), len(tiles) // _DRAWS_OF_VIEWS)
    picture = rows_of_images(torch.stack(tiles, 1).numpy(), names, column_names, new_groups)
    for logger in loggers_of(trainer):
        logger.log_picture("views", picture, trainer.current_epoch)


def _show_confusion(trainer: L.Trainer, method: Method, confusion: Tensor, beside: Beside) -> None:
    picture = confusion_matrix(confusion.cpu().numpy(), method.class_names, _title(trainer, method))
    for logger in loggers_of(trainer):
        beside(logger.log_picture, f"confusion/{method.evaluated_split}", picture, trainer.current_epoch)


def _title(trainer: L.Trainer, method: Method) -> str:
    return f"{method.evaluated_split}, epoch {trainer.current_epoch + 1}: percent of each label"


def _maps(record: CamRecord, tile: Tensor, rows: NDArray[np.int64], class_names: tuple[str, ...]) -> Pixels:
    """A row for every face: itself, then for each class of interest its map and that of its mirror image."""
    clean, given, probabilities = record.clean[rows], record.given[rows], record.probabilities[rows]
    classes = {"true class": clean, "predicted class": probabilities.argmax(1)}
    if (given != clean).any():
        classes["wrong label"] = given
    faces = tile[rows]
    pair = torch.cat([faces, mirror(faces)])
    cam = [np.concatenate([of[rows, shown] for of in (record.cam, record.mirrored_cam)]) for shown in classes.values()]
    overlays = overlay(pair, torch.from_numpy(np.stack(cam)))
    column_names = ["face", *(name for what in classes for name in (f"{what}:\nface", "\nmirrored"))]
    captions = [_caption(*labels, class_names) for labels in zip(clean, given, probabilities, strict=True)]
    tiles = torch.cat([faces, overlays.flatten(0, 1)]).view(-1, *faces.shape).transpose(0, 1)
    return rows_of_images(tiles.numpy(), captions, column_names, range(1, len(column_names), 2))


def _caption(clean: int, given: int, probabilities: NDArray[np.float32], class_names: tuple[str, ...]) -> str:
    predicted = int(probabilities.argmax())
    lines = [f"true: {class_names[clean]}"]
    if given != clean:
        lines.append(f"label: {class_names[given]}")
    lines.append(f"predicted: {class_names[predicted]}, {100 * probabilities[predicted]:.0f} %")
    if given != clean and predicted in (clean, given):
        lines.append("recovered" if predicted == clean else "memorized")
    return "\n".join(lines)


def _words_to_come(class_names: tuple[str, ...]) -> list[str]:
    """List words that captions may need after training and do not need before."""
    predicted = [f"{name}," for name in class_names]
    return [*predicted, *map(str, range(101)), "recovered", "memorized"]
