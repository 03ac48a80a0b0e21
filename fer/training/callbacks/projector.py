"""The features of training faces in TensorBoard's PROJECTOR: the papers' feature picture, to turn and to search."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import lightning.pytorch as L
import numpy as np
import torch
from annotated_types import Ge
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from fer.data.loading.datamodule import FaceDataModule
from fer.methods.core.explain import pooled_features
from fer.methods.core.method import Method
from fer.training.callbacks.showing import Showing
from fer.training.callbacks.shown_faces import evenly_spread
from fer.views.resize import resize

_THUMBNAIL = 32
"""Edge of a face in pixels."""
_WRITTEN_LAST = "projector_config.pbtxt"


class Projector(Showing):
    """Writes features of training faces with thumbnails, true and given labels after training.

    No epoch waits for them. A run that ended before they were written does so when it has been resumed.

    Args:
        faces: at most so many, from all over the training split; held-out ones are left out.
    """

    def __init__(self, *, faces: Annotated[int, Ge(3)] = 300) -> None:
        super().__init__()
        self.faces = faces

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        self.attempt(trainer, partial(self._show, trainer, pl_module))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the features of a resumed run that had no epochs left."""
        assert isinstance(pl_module, Method)
        self.attempt(trainer, partial(self._show, trainer, pl_module))

    def _show(self, trainer: L.Trainer, method: Method) -> None:
        writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        missing = [writer for writer in writers if not Path(writer.log_dir, _WRITTEN_LAST).is_file()]
        if not missing:
            return
        assert trainer.max_epochs is not None
        data: FaceDataModule = trainer.datamodule  # type: ignore[attr-defined]
        positions = evenly_spread(data.fit_rows, self.faces)
        features, thumbnails = [], []
        with trainer.precision_plugin.predict_step_context():
            for part in np.array_split(positions, -(-len(positions) // data.batch_size)):
                image = data.train.__getitems__(part.tolist()).image
                features.append(pooled_features(method, method.augmentation.test_view(image.to(method.device))).cpu())
                thumbnails.append(resize(image, _THUMBNAIL))
        given, clean = data.train.given[positions], data.train.clean[positions]
        labels = [_labels(*both, method.class_names) for both in zip(given, clean, strict=True)]
        for writer in missing:
            writer.add_embedding(
                _short(torch.cat(features)),
                labels,
                torch.cat(thumbnails) / 255,
                global_step=trainer.max_epochs - 1,
                tag="features",
                metadata_header=["given label", "true label", "label is"],
            )


def _labels(given: int, clean: int, class_names: tuple[str, ...]) -> list[str]:
    if clean < 0:
        return [class_names[given], "unknown", "unknown"]
    return [class_names[given], class_names[clean], "right" if given == clean else "wrong"]


def _short(features: Tensor) -> Tensor:
    """Round features to a thousandth of their spread, since they are written as decimal text."""
    spread = features.std().clamp(min=1e-12).double()
    return (features.double() / spread).round(decimals=3)
