"""Search for photographs, and for the faces in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer.data.images.decode import FORMATS, ImageFault, decode, pixels
from fer.errors import ConfigError
from fer.inference.faces import Face, FaceDetector, Photograph, alignment, cut_out

SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


@dataclass
class Scene:
    """A photograph and the faces found in it."""

    path: Path
    photograph: Photograph | None = None
    """``None`` where it could not be read, or is not needed any more."""
    fault: str = ""
    """Reason why the photograph could not be read; empty if it could."""
    faces: list[Face] = field(default_factory=list)
    cut_outs: list[NDArray[np.uint8]] = field(default_factory=list)
    """Pixels of each face, (3, size, size)."""
    transforms: list[NDArray[np.float64]] = field(default_factory=list)
    """Map from pixels of the photograph to those of a cut-out, (2, 3)."""


def find_images(patterns: Sequence[str]) -> list[Path]:
    """The image files that files, folders (at any depth) and glob patterns name, each once.

    Raises:
        ConfigError: one names nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
        elif path.is_file():
            files = [path]
        else:
            files = [Path(name) for name in sorted(glob(str(path), recursive=True)) if Path(name).is_file()]  # noqa: PTH207
        if not files:
            what = "a folder without images" if path.is_dir() else "no file, no folder and no pattern that fits one"
            raise ConfigError(f"{pattern} is {what}")
        found.update(dict.fromkeys(files))
    return list(found)


class SceneReader:
    """Reads a photograph, finds the faces and cuts them out.

    Args:
        size: edge length of the cut-outs in pixels.
        template: where landmarks lie in them, (5, 2) in units of the edge.
        detector: ``None`` takes every photograph as one face that is cut out already.
        keep_photographs: ``False`` forgets them once the faces are cut out.
    """

    def __init__(
        self,
        size: int,
        template: NDArray[np.float64],
        detector: FaceDetector | None,
        *,
        keep_photographs: bool = False,
    ) -> None:
        self.size = size
        self.keep_photographs = keep_photographs
        self.template = template
        self.detector = detector

    def __call__(self, path: Path) -> Scene:
        try:
            image = decode(path)
        except ImageFault as fault:
            return Scene(path, fault=str(fault))
        photograph = np.asarray(image)
        scene = Scene(path, photograph if self.keep_photographs else None)
        if self.detector is None:
            width, height = image.size
            scene.faces = [Face((0.0, 0.0, float(width), float(height)), 1.0, self.template * (width, height))]
            scene.cut_outs = [pixels(image, self.size)]
            scene.transforms = [np.array([[self.size / width, 0.0, 0.0], [0.0, self.size / height, 0.0]])]
            return scene
        scene.faces = self.detector(photograph)
        scene.transforms = [alignment(face.landmarks, self.template, self.size) for face in scene.faces]
        scene.cut_outs = [cut_out(photograph, transform, self.size) for transform in scene.transforms]
        return scene


def read_ahead(
    read: Callable[[Path], Scene], paths: Iterable[Path], threads: int, waiting: int = 16
) -> Iterator[Scene]:
    """Run ``map(read, paths)`` on several threads, with at most ``waiting`` finished results in memory."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Scene]] = deque()
        for path in paths:
            pending.append(pool.submit(read, path))
            if len(pending) >= waiting:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def in_batches(scenes: Iterable[Scene], faces: int) -> Iterator[list[Scene]]:
    """Group scenes into batches; a batch ends when it holds ``faces`` faces or ``faces`` scenes."""
    batch: list[Scene] = []
    for scene in scenes:
        batch.append(scene)
        if max(len(batch), sum(len(kept.faces) for kept in batch)) >= faces:
            yield batch
            batch = []
    if batch:
        yield batch
