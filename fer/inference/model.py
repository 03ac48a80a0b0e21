"""Models that classify faces: a run's trained method, or the same exported as an ONNX file, behind one interface."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fer.errors import ConfigError, UserError
from fer.files.atomic import write_json
from fer.files.plain_data import PlainDataError, read_json
from fer.inference.faces import MOST_MEASURED, STANDARD_TEMPLATE, FaceDetector, measured_template, template_fault
from fer.methods.core.explain import explain
from fer.runs.run_folder import RunFolder, RunFolderError
from fer.training.finished_run import trained, training_images
from fer.training.kept_config import ReadingOptions, read_kept_config

log = logging.getLogger(__name__)

Images = NDArray[np.uint8]
Template = NDArray[np.float64]

_TEMPLATE_FILE = "face_template.json"


class Prediction(NamedTuple):
    """Predictions for B faces."""

    probabilities: NDArray[np.float32]
    """(B, K)."""
    cam: NDArray[np.float32] | None
    """(B, K, h, w); ``None`` where it was not asked for, or where the model has none."""


class Model(ABC):
    """Classifies faces that are cut out and aligned as the training data was."""

    class_names: tuple[str, ...]
    image_size: int
    """Edge length in pixels of the faces that it takes."""

    @abstractmethod
    def face_template(self, detector: FaceDetector) -> Template:
        """Positions of landmarks in the faces that it was trained on, (5, 2) in units of their edge."""

    @abstractmethod
    def predict(self, faces: Images, *, with_cam: bool = False) -> Prediction:
        """Probabilities, and maps, of uint8 faces (B, 3, image_size, image_size) in RGB."""


class RunModel(Model):
    """The trained method of a finished run.

    Args:
        folder: of the run.
        device: ``auto`` (a GPU where there is one), ``cpu`` or ``gpu``.
        options: how its configuration is read.

    Raises:
        RunFolderError: the run is not finished, or a file of it cannot be read.
        ConfigError: there is no such device, the run's checkpoint is missing, or its configuration names code
            that is not known.
    """

    def __init__(self, folder: RunFolder, device: str = "auto", options: ReadingOptions | None = None) -> None:
        self.folder = folder
        self.device = device_of(device)
        self.method = trained(folder, self.device, options)
        self._settings = read_kept_config(folder, options or ReadingOptions())
        self.class_names = self.method.class_names
        self.image_size: int = self._settings.data.store_size

    def face_template(self, detector: FaceDetector) -> Template:
        """Positions of landmarks, measured on the training images the first time and kept in the run folder."""
        file = self.folder.path / _TEMPLATE_FILE
        if file.is_file():
            return _read_template(file)
        try:
            images = training_images(self._settings, MOST_MEASURED)
        except (UserError, OSError) as error:
            log.warning("faces are aligned to a standard: the run's training images are not at hand (%s)", error)
            return STANDARD_TEMPLATE
        template = measured_template(images, detector)
        if template is None or template_fault(template):
            log.warning("faces are aligned to a standard: the detector finds too few in the run's training images")
            template = STANDARD_TEMPLATE
        try:
            write_json(file, {"landmarks": template.tolist()})
        except OSError as error:
            log.warning("how faces are aligned cannot be kept in %s (%s)", file, error.strerror)
        return template

    def predict(self, faces: Images, *, with_cam: bool = False) -> Prediction:
        images = torch.from_numpy(faces).to(self.device)
        if not with_cam:
            with torch.inference_mode():
                logits, cam = self.method(images).float(), None
        else:
            explanation = explain(self.method, self.method.augmentation.test_view(images))
            logits, cam = explanation.logits, self.method.augmentation.on_whole_image(explanation.cam)
        for name, values in (("logits", logits), ("maps", cam)):
            if values is not None and not bool(values.isfinite().all()):
                raise RunFolderError(f"the network of {self.folder.path} gives {name} that are not finite")
        return Prediction(logits.softmax(1).cpu().numpy(), None if cam is None else cam.cpu().numpy())


def _read_template(file: Path) -> Template:
    try:
        points = read_json(file).get("landmarks")
    except (OSError, PlainDataError) as error:
        raise RunFolderError(f"{file} cannot be read ({error}); remove it, and it is measured again") from error
    if fault := template_fault(points):
        raise RunFolderError(f"{file} {fault}; remove it, and it is measured again")
    return np.array(points, dtype=np.float64)


def device_of(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``gpu`` means on this machine.

    Raises:
        ConfigError: another word, or no GPU where one is asked for.
    """
    if name not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"--device {name}: choose auto, cpu or gpu")
    if name == "gpu" and not torch.cuda.is_available():
        raise ConfigError("--device gpu: torch finds no GPU here; leave it out or give --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
