"""Photographs with demo faces at known places, and a run trained on such faces, for the tests of inference."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fer.config.compose import compose
from fer.data.readers import demo
from fer.launch import run_job
from fer.runs.run_folder import RunFolder

CHOICES = {"method": "eac", "backbone": "tiny", "data": "demo", "noise": "symmetric"}


class Pasted(NamedTuple):
    """A face in a photograph: its center and edge in pixels, and its rotation."""

    center: tuple[float, float]
    edge: int
    degrees: float


def train_on_demo_faces(folder: Path, cache: Path, *more: str) -> RunFolder:
    """Train for one short epoch on demo faces and return the finished run."""
    overrides = [
        "data=demo", "data.reader.train=64", "data.reader.test=20", f"cache_dir={cache}", "backbone.width=8",
        "trainer.max_epochs=1", "trainer.accelerator=cpu", "augment.size=32", "noise.ratio=0.3", *more,
    ]  # fmt: skip
    run_job.run(compose(overrides), folder, CHOICES)
    return RunFolder(folder)


def faces(count: int) -> list[Image.Image]:
    return [image for _, _, image in demo.faces("test", count, seed=7)]


def photograph(places: list[Pasted], size: tuple[int, int] = (640, 480)) -> Image.Image:
    """Paste demo faces on a smooth background of many colors."""
    noise = np.random.default_rng(3).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    for face, place in zip(faces(len(places)), places, strict=True):
        turned = face.resize((place.edge, place.edge), Image.Resampling.BICUBIC).convert("RGBA")
        turned = turned.rotate(place.degrees, Image.Resampling.BICUBIC, expand=True)
        corner = round(place.center[0] - turned.width / 2), round(place.center[1] - turned.height / 2)
        picture.paste(turned, corner, turned)
    return picture
