"""Pictures of what a network sees, where it looks and what it confuses."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fer.augment import resize
from fer.callbacks.showing import Showing, add_picture, writers
from fer.cam import mirror, overlay
from fer.cam_record import CamRecord
from fer.data.module import FaceDataModule
from fer.data.shown_faces import evenly_spread, shown_test_faces, shown_wrong_labels
from fer.drawing import confusion_matrix, rows_of_images
from fer.methods.base import Method
from fer.methods.explanation import explain
from fer.runs import RunFolder

_TILE = 88
"""Edge of a face in a picture, in pixels."""
_FACES_IN_VIEWS = 6
_DRAWS_OF_VIEWS = 3


class Pictures(Showing):
    """Draws after a few epochs, and writes the maps to the run folder, also where nothing is logged.

    In TensorBoard:

    - ``views``, once, before training: a few training faces as the network is going to see them;
    - ``cam/test``: where it looks for the true and for the predicted class of a few test faces and of their mirror
      images;
    - ``cam/wrong_labels``: the same of a few training faces, and for the class of their wrong label;
    - ``confusion/test`` or ``confusion/holdout``: of the evaluation after that epoch.

    The faces are the same in every epoch, see ``fer.data.shown_faces``. The run folder gets their ``CamRecord``. All
    this is drawn before the epoch's checkpoint is written: a run that is interrupted in between draws it again.

    Args:
        epochs: how many epochs end with pictures: the first, the last, and others evenly in between.

    Raises:
        ValueError: less than 2.
    """

    def __init__(self, *, epochs: int = 6) -> None:
        if not isinstance(epochs, int) or epochs < 2:
            raise ValueError(f"callbacks.pictures.epochs is {epochs}; it must be a whole number of 2 or more")
        super().__init__()
        self.epochs = epochs

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 0:
            assert isinstance(pl_module, Method)
            self.attempt(trainer, partial(_show_views, trainer, pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method) and trainer.max_epochs is not None
        if trainer.current_epoch not in chosen_epochs(self.epochs, trainer.max_epochs):
            return
        # By every rank, whatever becomes of the pictures of the first one.
        confusion = pl_module.sum_over_ranks(pl_module.evaluation_metrics.confusion.clone())
        self.attempt(trainer, partial(_show_confusion, trainer, pl_module, confusion))
        self.attempt(trainer, partial(_show_maps, trainer, pl_module))


def chosen_epochs(count: int, of: int) -> set[int]:
    """``count`` of the epochs 0..of-1, or all where there are fewer: the first, the last, others evenly in between."""
    return {int(epoch) for epoch in np.linspace(0, of - 1, count).round()}


def cam_record(method: Method, faces: dict[str, NDArray[Any]]) -> CamRecord:
    """What a method says of faces as it is now.

    Args:
        faces: the first five fields of a ``CamRecord``.
    """
    view = method.augmentation.test_view(torch.from_numpy(faces["image"]).to(method.device))
    explained, of_mirrored = explain(method, view), explain(method, mirror(view))
    return CamRecord(
        **faces,
        probabilities=explained.logits.softmax(1).cpu().numpy(),
        cam=explained.cam.half().cpu().numpy(),
        mirrored_cam=of_mirrored.cam.half().cpu().numpy(),
    )


def _shown_faces(data: FaceDataModule) -> dict[str, NDArray[Any]]:
    chosen = [
        ("test", data.test, shown_test_faces(data.test.clean)),
        ("train", data.train, shown_wrong_labels(data.train.clean, data.train.given, data.fit_rows)),
    ]
    rows = np.concatenate([dataset.rows[positions] for _, dataset, positions in chosen])
    return {
        "split": np.concatenate([np.full(len(positions), split) for split, _, positions in chosen]),
        "file": np.array([data.table.file_names[row] for row in rows]),
        "image": data.store.images[rows],
        "clean": np.concatenate([dataset.clean[positions] for _, dataset, positions in chosen]),
        "given": np.concatenate([dataset.given[positions] for _, dataset, positions in chosen]),
    }


def _show_views(trainer: L.Trainer, method: Method) -> None:
    data: FaceDataModule = trainer.datamodule  # type: ignore[attr-defined]
    positions = evenly_spread(data.fit_rows, _FACES_IN_VIEWS)
    batch = data.train.__getitems__(positions.tolist())
    assert isinstance(batch.image, Tensor)
    tiles, column_names = [resize(batch.image, _TILE)], ["face"]
    for draw in range(_DRAWS_OF_VIEWS):
        made = method.make_views(batch.image.to(method.device))
        views = (made,) if isinstance(made, Tensor) else made
        tiles += [resize(method.augmentation.denormalise(view).cpu(), _TILE) for view in views]
        column_names += [f"draw {draw + 1}\nview {number + 1}" for number in range(len(views))]
    names = [method.class_names[label] for label in batch.label.tolist()]
    new_groups = range(1, len(tiles), len(tiles) // _DRAWS_OF_VIEWS)
    picture = rows_of_images(torch.stack(tiles, 1).numpy(), names, column_names, new_groups)
    for writer in writers(trainer):
        add_picture(writer, "views", picture, trainer.current_epoch)


def _show_confusion(trainer: L.Trainer, method: Method, confusion: Tensor) -> None:
    title = f"{method.evaluation_name}, epoch {trainer.current_epoch + 1}: percent of each label"
    picture = confusion_matrix(confusion.cpu().numpy(), method.class_names, title)
    for writer in writers(trainer):
        add_picture(writer, f"confusion/{method.evaluation_name}", picture, trainer.current_epoch)


def _show_maps(trainer: L.Trainer, method: Method) -> None:
    with trainer.precision_plugin.val_step_context():
        record = cam_record(method, _shown_faces(trainer.datamodule))  # type: ignore[attr-defined]
    for writer in writers(trainer):
        for tag, rows in (("test", record.split == "test"), ("wrong_labels", record.split == "train")):
            if rows.any():
                picture = _maps(record, np.flatnonzero(rows), method.class_names)
                add_picture(writer, f"cam/{tag}", picture, trainer.current_epoch)
    record.write(RunFolder(trainer.default_root_dir), trainer.current_epoch)


def _maps(record: CamRecord, rows: NDArray[np.int64], class_names: tuple[str, ...]) -> Image.Image:
    """A row for every face: itself, then for each class of interest its map and that of its mirror image."""
    clean, given, probabilities = record.clean[rows], record.given[rows], record.probabilities[rows]
    classes = {"true class": clean, "predicted class": probabilities.argmax(1)}
    if (given != clean).any():
        classes["wrong label"] = given
    faces = resize(torch.from_numpy(record.image[rows]), _TILE)
    tiles = [faces]
    for labels in classes.values():
        for images, maps in ((faces, record.cam), (mirror(faces), record.mirrored_cam)):
            tiles.append(overlay(images, torch.from_numpy(maps[rows, labels])))
    column_names = ["face", *(name for what in classes for name in (f"{what}:\nface", "\nmirror image"))]
    captions = [_caption(*labels, class_names) for labels in zip(clean, given, probabilities, strict=True)]
    return rows_of_images(torch.stack(tiles, 1).numpy(), captions, column_names, range(1, len(tiles), 2))


def _caption(clean: int, given: int, probabilities: NDArray[np.float32], class_names: tuple[str, ...]) -> str:
    predicted = int(probabilities.argmax())
    lines = [f"true: {class_names[clean]}"]
    if given != clean:
        lines.append(f"label: {class_names[given]}")
    lines.append(f"predicted: {class_names[predicted]}, {100 * probabilities[predicted]:.0f} %")
    if given != clean and predicted in (clean, given):
        lines.append("recovered" if predicted == clean else "memorised")
    return "\n".join(lines)
