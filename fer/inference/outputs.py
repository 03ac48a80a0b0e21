"""Predictions for faces in photographs, and the files they are written to."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fer.errors import ConfigError
from fer.files.csv_files import CsvWriter
from fer.inference.faces import Face
from fer.inference.model import Model
from fer.inference.photographs import Scene


@dataclass(frozen=True)
class ClassifiedFace:
    """A face and its expression."""

    face: Face
    expression: str
    probabilities: dict[str, float]
    """Probability of each class, in the order of the logits."""
    cam: NDArray[np.float32] | None
    """Map (h, w) of the expression, over the cut-out; ``None`` where it was not asked for or there is none."""

    @property
    def confidence(self) -> float:
        return self.probabilities[self.expression]

    @property
    def caption(self) -> str:
        """``Happiness 93 %``."""
        return f"{self.expression} {100 * self.confidence:.0f} %"


def classify(model: Model, scenes: list[Scene], *, with_cam: bool) -> Iterator[tuple[Scene, list[ClassifiedFace]]]:
    """The faces of several photographs in one pass, each photograph with its own."""
    cut_outs = [cut_out for scene in scenes for cut_out in scene.cut_outs]
    prediction = model.predict(np.stack(cut_outs), with_cam=with_cam) if cut_outs else None
    number = 0
    for scene in scenes:
        classified = []
        for face in scene.faces:
            assert prediction is not None
            p = prediction.probabilities[number]
            best = int(p.argmax())
            cam = None if prediction.cam is None else prediction.cam[number, best]
            by_class = {name: float(value) for name, value in zip(model.class_names, p, strict=True)}
            classified.append(ClassifiedFace(face, model.class_names[best], by_class, cam))
            number += 1
        yield scene, classified


class Writer(ABC):
    """Receives photographs one by one and writes them to an open file."""

    def __init__(self, stream: IO[str], class_names: Iterable[str]) -> None:
        self.stream = stream
        self.class_names = tuple(class_names)

    @abstractmethod
    def add(self, scene: Scene, faces: list[ClassifiedFace]) -> None:
        """Write one photograph."""

    @abstractmethod
    def end(self) -> None:
        """Finish the file after the last photograph."""


class CsvFaces(Writer):
    """A line for each face; photographs without one do not appear."""

    def __init__(self, stream: IO[str], class_names: Iterable[str]) -> None:
        super().__init__(stream, class_names)
        self._csv = CsvWriter(stream)
        places = ("left", "top", "width", "height", "score")
        self._csv.write(["file", "face", *places, "expression", "confidence", *(f"p_{c}" for c in self.class_names)])

    def add(self, scene: Scene, faces: list[ClassifiedFace]) -> None:
        for number, found in enumerate(faces, start=1):
            box = [f"{value:.1f}" for value in found.face.box]
            p = [f"{value:.6f}" for value in found.probabilities.values()]
            self._csv.write([
                scene.path, number, *box, f"{found.face.score:.4f}", found.expression, f"{found.confidence:.6f}", *p
            ])  # fmt: skip

    def end(self) -> None:
        """Do nothing: a CSV file needs no end."""


class JsonFaces(Writer):
    """A list with an object for each photograph, those without faces and those that cannot be read included."""

    _is_first = True

    def add(self, scene: Scene, faces: list[ClassifiedFace]) -> None:
        entry: dict[str, Any] = {"file": str(scene.path)}
        if scene.fault:
            entry["error"] = scene.fault
        entry["faces"] = [
            {
                "box": [round(value, 1) for value in found.face.box],
                "score": round(found.face.score, 4),
                "expression": found.expression,
                "probabilities": {name: round(value, 6) for name, value in found.probabilities.items()},
            }
            for found in faces
        ]
        self.stream.write("[\n" if self._is_first else ",\n")
        self.stream.write(json.dumps(entry))
        self._is_first = False

    def end(self) -> None:
        self.stream.write("[]\n" if self._is_first else "\n]\n")


_WRITERS: dict[str, type[Writer]] = {".csv": CsvFaces, ".json": JsonFaces}


def writer_for(path: Path) -> type[Writer]:
    """Choose the writer by the ending of the file.

    Raises:
        ConfigError: another ending than .csv and .json.
    """
    if path.suffix not in _WRITERS:
        raise ConfigError(f"--output {path}: the name must end in {' or '.join(_WRITERS)}")
    return _WRITERS[path.suffix]
