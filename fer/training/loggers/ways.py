"""The way in which each kind of logger takes epochs, settings, results, pictures and texts."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from fer.files.visible_text import verbatim
from fer.runs.run_folder import RunFolder
from fer.training.callbacks.tiles import Pixels
from fer.training.loggers.identity import keep_identity, kept_identity

Charts = Mapping[str, Mapping[str, list[str]]]
"""Tags of metrics, as regular expressions, by category and chart."""
_JPEG_QUALITY = 85
_SQLITE = "sqlite:///"

# TensorBoard's own function loops over bytes in Python: 15 ms for a picture of 100 kB, while training waits.
pywrap_tensorflow.crc32c = google_crc32c.value


class Way:
    """How any logger of Lightning is used: it gets metrics and settings, but neither pictures nor texts.

    Args:
        logger: of the run.
        folder: of the run.
    """

    def __init__(self, logger: Logger, folder: RunFolder) -> None:
        self.logger: Any = logger
        self.folder = folder

    @staticmethod
    def arguments(folder: RunFolder, label: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that the logger's constructor gets where the configuration does not give them.

        Args:
            folder: of the run.
            label: the run's name.
            given: by the configuration.
        """
        return {}

    def start(self, config: Mapping[str, Any]) -> None:
        """Take the settings of a run that begins or goes on, before its first step."""
        self.logger.log_hyperparams(dict(config))

    def log_epoch(self, metrics: Mapping[str, float], *, epoch: int, step: int) -> None:
        """Take an epoch's metrics; ``epoch`` counts from 0, ``step`` is the number of steps behind it."""
        self.logger.log_metrics(dict(metrics), step=epoch)

    def log_result(self, settings: Mapping[str, Any], metrics: Mapping[str, float], *, epochs: int) -> None:
        """Take the settings that matter and the result of a finished run of so many epochs."""
        self.logger.log_metrics(dict(metrics), step=epochs - 1)

    def log_picture(self, tag: str, picture: Pixels, epoch: int) -> None:
        """Take a picture."""

    def log_text(self, name: str, text: str, epoch: int) -> None:
        """Take a text, word for word."""

    def log_charts(self, charts: Charts) -> None:
        """Take what curves belong into one chart."""

    def end(self, *, failed: bool) -> None:
        """Close the logger, so that the next run of this process gets one of its own."""
        self.logger.finalize("failed" if failed else "success")


class TensorBoardWay(Way):
    """Event files in ``<run folder>/tensorboard``; the result is the run's row in HPARAMS."""

    @staticmethod
    def arguments(folder: RunFolder, label: str, given: Mapping[str, Any]) -> dict[str, Any]:
        where = folder.tensorboard_folder
        return {"save_dir": where.parent, "name": where.name, "version": "", "default_hp_metric": False}

    def start(self, config: Mapping[str, Any]) -> None:
        """Nothing: HPARAMS needs the result beside the settings, and the run card shows all settings as a text."""

    def log_result(self, settings: Mapping[str, Any], metrics: Mapping[str, float], *, epochs: int) -> None:
        self.logger.log_hyperparams(dict(settings), dict(metrics))

    def log_picture(self, tag: str, picture: Pixels, epoch: int) -> None:
        """Add a JPEG, a fifth of the size that ``SummaryWriter.add_image`` would make of a photograph."""
        height, width, _ = picture.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=as_jpeg(picture))
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self.logger.experiment.file_writer.add_summary(summary, epoch)

    def log_text(self, name: str, text: str, epoch: int) -> None:
        self.logger.experiment.add_text(name, verbatim(text), epoch)

    def log_charts(self, charts: Charts) -> None:
        self.logger.experiment.add_custom_scalars({
            category: {name: ["Multiline", tags] for name, tags in of_category.items()}
            for category, of_category in charts.items()
        })  # fmt: skip


class CsvWay(Way):
    """``<run folder>/csv/metrics.csv``, which Lightning begins anew at every start: earlier epochs are repeated."""

    @staticmethod
    def arguments(folder: RunFolder, label: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"save_dir": folder.path, "name": "csv", "version": ""}

    def start(self, config: Mapping[str, Any]) -> None:
        super().start(config)
        for record in self.folder.records():
            self.log_epoch({k: v for k, v in record.items() if k != "epoch"}, epoch=int(record["epoch"]), step=0)
        self.logger.save()

    def log_epoch(self, metrics: Mapping[str, float], *, epoch: int, step: int) -> None:
        super().log_epoch({**metrics, "epoch": epoch}, epoch=epoch, step=step)
        self.logger.save()


class WandbWay(Way):
    """A run of Weights & Biases; a resumed run goes on in it."""

    @staticmethod
    def arguments(folder: RunFolder, label: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"save_dir": folder.path, "name": label, "id": kept_identity(folder, "wandb") or os.urandom(8).hex()}

    def start(self, config: Mapping[str, Any]) -> None:
        keep_identity(self.folder, "wandb", self.logger.experiment.id)
        super().start(config)

    def log_epoch(self, metrics: Mapping[str, float], *, epoch: int, step: int) -> None:
        # Steps and epochs share one axis; "epoch" can be chosen as another.
        self.logger.log_metrics({**metrics, "epoch": epoch}, step=step)

    def log_result(self, settings: Mapping[str, Any], metrics: Mapping[str, float], *, epochs: int) -> None:
        self.logger.experiment.summary.update(dict(metrics))

    def log_picture(self, tag: str, picture: Pixels, epoch: int) -> None:
        self.logger.log_image(tag, [Image.fromarray(picture)], caption=[f"epoch {epoch + 1}"])

    def end(self, *, failed: bool) -> None:
        super().end(failed=failed)
        if self.logger._experiment is not None:
            self.logger.experiment.finish(exit_code=int(failed))


class MlflowWay(Way):
    """A run of MLflow; a resumed run goes on in it."""

    @staticmethod
    def arguments(folder: RunFolder, label: str, given: Mapping[str, Any]) -> dict[str, Any]:
        # An absent server would hold up training for four minutes by MLflow's default of 7.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        # MLflow refuses folders, which are not its choice any more; whoever names one has decided.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        found = {"run_name": label, "run_id": kept_identity(folder, "mlflow")}
        uri = str(given.get("tracking_uri"))
        if uri.startswith(_SQLITE):
            # Else MLflow makes a folder wherever the command was typed.
            database = Path(uri.removeprefix(_SQLITE)).absolute()
            database.parent.mkdir(parents=True, exist_ok=True)
            found["artifact_location"] = (database.parent / f"{database.stem}-artifacts").as_uri()
        return found

    def start(self, config: Mapping[str, Any]) -> None:
        client, run_id = self.logger.experiment, self.logger.run_id
        keep_identity(self.folder, "mlflow", run_id)
        known = client.get_run(run_id).data.params
        # MLflow refuses other values of what it knows; what may differ in a resumed run is not worth an error.
        self.logger.log_hyperparams({name: value for name, value in _flat(config).items() if name not in known})
        client.update_run(run_id, status="RUNNING")

    def log_result(self, settings: Mapping[str, Any], metrics: Mapping[str, float], *, epochs: int) -> None:
        super().log_result(settings, metrics, epochs=epochs)
        for file in (self.folder.config_file, self.folder.stamp_file):
            self.logger.experiment.log_artifact(self.logger.run_id, str(file))

    def log_picture(self, tag: str, picture: Pixels, epoch: int) -> None:
        file = f"{tag}/epoch{epoch + 1:04d}.png"
        self.logger.experiment.log_image(self.logger.run_id, Image.fromarray(picture), artifact_file=file)

    def log_text(self, name: str, text: str, epoch: int) -> None:
        """Nothing: configuration and stamp become files of the run at its end."""


_WAYS: Mapping[type[Logger], type[Way]] = {
    TensorBoardLogger: TensorBoardWay,
    CSVLogger: CsvWay,
    WandbLogger: WandbWay,
    MLFlowLogger: MlflowWay,
}


def way_of(kind: Any) -> type[Way]:
    """Find how loggers of a class, or what another callable makes, are used."""
    is_class = isinstance(kind, type)
    return next((way for known, way in _WAYS.items() if is_class and issubclass(kind, known)), Way)


def as_jpeg(picture: Pixels) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return encoded.getvalue()


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten nested settings into dotted keys."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) and value else {f"{above}{name}": value}
    return found
