"""Data modules of class folders with 30 % wrong labels, read at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from fer.data import noise
from fer.data.loading.datamodule import FaceDataModule
from fer.data.readers import folder


def module(root: Path, **options: Any) -> FaceDataModule:
    """Make one from ``root/train`` and ``root/test``; ``options`` are its arguments."""
    made = FaceDataModule(
        read=partial(folder.read, root),
        noise=partial(noise.symmetric, ratio=0.3, seed=0),
        **{"batch_size": 8, "store_size": 16, "cache_dir": "", "image_cache": False, **options},
    )
    made.setup()
    return made
