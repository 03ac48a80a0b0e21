"""Small folders of pictures, and their image stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fer.data.images.store import ImageStore
from fer.data.table import SampleTable

SIZE = 16


def picture(seed: int, width: int = SIZE, height: int = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_faces(root: Path, first: int = 0, suffix: str = ".png") -> Path:
    """Make a folder of five pictures, drawn with the seeds from ``first`` on; as .bmp all have equally many bytes."""
    root.mkdir()
    for number in range(5):
        picture(first + number).save(root / f"{number}{suffix}")
    return root


def table_of(root: Path, test: int = 1, name: str = "files") -> SampleTable:
    """Make a sample table of all files of a folder; the last ``test`` files are the test split."""
    paths = tuple(sorted(root.iterdir()))
    rows = len(paths)
    return SampleTable(name, root, paths, np.zeros(rows, dtype=np.int64), np.arange(rows) < rows - test, ("a", "b"), ())


def open_store(root: Path, cache: Path | None, on_bad_image: str = "error", size: int = SIZE) -> ImageStore:
    return ImageStore.open(table_of(root), size=size, cache_dir=cache, on_bad_image=on_bad_image)


def pixels_of(root: Path) -> np.ndarray:
    """Decode the pictures of a folder with PIL, (N, 3, SIZE, SIZE)."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in sorted(root.iterdir())])
