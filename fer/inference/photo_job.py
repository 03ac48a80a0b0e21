"""A whole call of fer-predict: read, find, classify, write, and say what was done."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from fer.errors import ConfigError
from fer.files.atomic import replacing, replacing_text
from fer.inference.annotate import draw_faces
from fer.inference.faces import STANDARD_TEMPLATE, FaceDetector
from fer.inference.open_model import open_model
from fer.inference.outputs import ClassifiedFace, classify, writer_for
from fer.inference.photographs import Scene, SceneReader, find_images, in_batches, read_ahead
from fer.runs.output_files import Inputs, check_output, distinct_names
from fer.training.kept_config import ReadingOptions

log = logging.getLogger(__name__)

_SHOWN = 20


@dataclass
class Outcome:
    """Outcome for the photographs."""

    output: Path
    photographs: int = 0
    faces: int = 0
    without_face: int = 0
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """Seconds from the first photograph to the last, without the start of the program."""
    expressions: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        speed = self.photographs / self.seconds if self.seconds else 0.0
        faces, photographs = _counted(self.faces, "face"), _counted(self.photographs, "photograph")
        lines = [f"{self.output}  {faces} in {photographs}, {speed:.3g} photographs/s"]
        lines += [f"  {name:12} {count}" for name, count in self.expressions.most_common()]
        if self.without_face:
            lines.append(f"no face was found in {self.without_face}")
        if self.unreadable:
            was = "was" if len(self.unreadable) == 1 else "were"
            lines.append(f"{len(self.unreadable)} could not be read and {was} left out")
        return "\n".join(lines)


@dataclass
class PredictionJob:
    """The options of ``fer-predict``, in the ranges that its command line checks.

    Raises:
        UserError: from ``run``, for what cannot be used, before anything is read.
    """

    run_folder: Path | None
    model: Path | None
    images: Sequence[str]
    detect: Literal["auto", "off"]
    least_score: float
    output: Path
    overwrite: bool
    overlays: Path | None
    cam: bool
    batch_size: int
    device: str
    threads: int
    reading: ReadingOptions | None = None
    """Options for reading the run's configuration."""

    def run(self) -> Outcome:
        """Predict all photographs, write the outputs and return the outcome."""
        make_writer = writer_for(self.output)
        paths = find_images(self.images)
        inputs = Inputs([*paths, *([self.model] if self.model else [])])
        self._check_place(self.output, inputs)
        pictures: dict[Path, Path] = {}
        if self.overlays is not None:
            pictures = {path: self.overlays / name for path, name in distinct_names(paths, ".png").items()}
            for picture in pictures.values():
                self._check_place(picture, inputs)
        self._make_folders()
        detector = FaceDetector(self.least_score) if self.detect == "auto" else None
        model = open_model(self.run_folder, self.model, self.device, self.reading)
        template = model.face_template(detector) if detector else STANDARD_TEMPLATE
        read = SceneReader(model.image_size, template, detector, keep_photographs=self.overlays is not None)
        outcome = Outcome(self.output)
        started = time.perf_counter()
        console = Console(stderr=True)
        progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        with replacing_text(self.output) as stream, progress:
            writer = make_writer(stream, model.class_names)
            task = progress.add_task("photographs", total=len(paths))
            for scenes in in_batches(read_ahead(read, paths, self.threads), self.batch_size):
                for scene, faces in classify(model, scenes, with_cam=self.cam and self.overlays is not None):
                    writer.add(scene, faces)
                    self._count(outcome, scene, faces, one_of_few=len(paths) <= _SHOWN)
                    if self.overlays is not None and faces:
                        self._draw(scene, faces, model.image_size, pictures[scene.path])
                progress.advance(task, len(scenes))
            writer.end()
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _check_place(self, path: Path, inputs: Inputs) -> None:
        remedy = "choose another --output or --overlays, or give --overwrite"
        check_output(path, inputs, may_replace=self.overwrite, remedy=remedy)

    def _make_folders(self) -> None:
        for folder in (self.output.parent, *([self.overlays] if self.overlays else [])):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot make the folder {folder} ({error.strerror})") from error

    def _count(self, outcome: Outcome, scene: Scene, faces: list[ClassifiedFace], *, one_of_few: bool) -> None:
        outcome.photographs += 1
        outcome.faces += len(faces)
        outcome.expressions.update(face.expression for face in faces)
        if scene.fault:
            outcome.unreadable.append(str(scene.path))
            log.warning("%s: %s; left out", scene.path, scene.fault)
        elif not faces:
            outcome.without_face += 1
        if one_of_few:
            for face in faces:
                log.info("%s  %s", scene.path, face.caption)

    def _draw(self, scene: Scene, faces: list[ClassifiedFace], size: int, path: Path) -> None:
        assert scene.photograph is not None
        picture = draw_faces(scene.photograph, faces, scene.transforms, size)
        try:
            with replacing(path) as unfinished:
                picture.save(unfinished, "PNG")
        except OSError as error:
            raise ConfigError(f"cannot write {path} ({error.strerror or error})") from error


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("s" if number != 1 else "")
