"""The demo data set: procedural faces in RAF-DB's layout, so that everything runs before the real data is there."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fer.data.demo_faces.canvas import SIZE
from fer.data.demo_faces.chance import pick
from fer.data.demo_faces.drawing import draw_face
from fer.data.readers import raf_db
from fer.data.table import DatasetError, SampleTable
from fer.files.plain_data import read_json

__all__ = ["CLASS_SHARES", "contact_sheet", "draw_face", "faces", "read", "write"]

log = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever the same numbers give other faces."""
CLASS_SHARES = (0.14, 0.10, 0.11, 0.20, 0.15, 0.12, 0.18)
"""Relative frequency of each expression in RAF-DB's order: 2 : 1 for Happiness and Fear (RAF-DB has 17 : 1)."""

MOST_FACES = 100_000
"""Largest split that is drawn; a run folder of a stranger could ask for any number."""

_STAMP = "demo.json"
_QUALITY = 92
_DIGITS = {"train": 5, "test": 4}  # train_00001.jpg and test_0001.jpg, as in RAF-DB


def faces(split: str, count: int, *, seed: int) -> Iterator[tuple[str, int, Image.Image]]:
    """The first ``count`` faces of a split ("train" or "test"): name as in the list, label 0..6, RGB image.

    Every face has a generator of its own, from seed, split and number: a larger count only adds faces.
    """
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, list(_DIGITS).index(split), number])
        label = pick(rng, [(share, label) for label, share in enumerate(CLASS_SHARES)])
        yield f"{split}_{number:0{_DIGITS[split]}d}.jpg", label, Image.fromarray(draw_face(label, rng))


def write(root: str | Path, *, train: int, test: int, seed: int) -> None:
    """Write the set of ``train`` and ``test`` faces to the folder ``root``; nothing is done if it is there already.

    The folder appears under its name only when it is complete. Processes may write the same set at once.

    Raises:
        DatasetError: ``root`` holds something else, or a number is out of range.
    """
    root = Path(root).expanduser()
    if train < 1 or test < 1 or seed < 0:
        raise DatasetError(root, [f"train={train}, test={test}, seed={seed}: give at least 1, at least 1, at least 0"])
    if max(train, test) > MOST_FACES:
        raise DatasetError(root, [f"train={train:,}, test={test:,}: give at most {MOST_FACES:,} each"])
    stamp = {"version": VERSION, "train": train, "test": test, "seed": seed}
    if _is_there(root, stamp):
        return
    log.info("drawing %s demo faces into %s", f"{train + test:,}", root)
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        _fill(unfinished, stamp)
        unfinished.chmod(0o755)
        try:
            unfinished.replace(root)
        except OSError:  # another process was faster
            if not _is_there(root, stamp):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _fill(folder: Path, stamp: dict[str, int]) -> None:
    images, labels = folder / raf_db.IMAGES, folder / raf_db.LIST
    images.mkdir(parents=True)
    labels.parent.mkdir()
    with labels.open("w", encoding="utf-8", newline="\n") as lines:
        for split in _DIGITS:
            for name, label, image in faces(split, stamp[split], seed=stamp["seed"]):
                image.save(images / name.replace(".jpg", "_aligned.jpg"), quality=_QUALITY)
                lines.write(f"{name} {label + 1}\n")
    (folder / _STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")


def _is_there(root: Path, stamp: dict[str, int]) -> bool:
    """Tell whether ``root`` holds exactly this set; ``False`` if it does not exist.

    Raises:
        DatasetError: ``root`` is something else.
    """
    try:
        found = read_json(root / _STAMP)
    except (FileNotFoundError, NotADirectoryError):
        if not root.exists() or (root.is_dir() and next(os.scandir(root), None) is None):
            return False
        fault = f"{_STAMP}: missing, so this is no demo set and is left alone; choose an absent or empty folder"
        raise DatasetError(root, [fault]) from None
    except ValueError:
        fault = f"{_STAMP}: not readable; remove the folder {root}, it will be drawn again, or choose another one"
        raise DatasetError(root, [fault]) from None
    if found != stamp:
        fault = f"{_STAMP}: the folder holds {found}, asked for is {stamp}; remove the folder or choose another one"
        raise DatasetError(root, [fault])
    return True


def read(root: str | Path, *, train: int, test: int, seed: int) -> SampleTable:
    """Read the sample table of the set, which is written first if ``root`` does not exist.

    Raises:
        DatasetError: ``root`` holds something else, or files of the set are missing.
    """
    write(root, train=train, test=test, seed=seed)
    return replace(raf_db.read(root, expected=(train, test)), name="demo")


def contact_sheet(columns: int = 12, *, seed: int = 0) -> Image.Image:
    """A row of ``columns`` faces for each of the seven classes, their names at the left; RGB."""
    margin, gap = 104, 4
    step = SIZE + gap
    names = raf_db.CLASS_NAMES
    sheet = Image.new("RGB", (margin + columns * step, len(names) * step + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for label, name in enumerate(names):
        top = gap + label * step
        pen.text((gap + 4, top + SIZE / 2), name, fill="black", font=font, anchor="lm")
        for column in range(columns):
            face = draw_face(label, np.random.default_rng([seed, len(_DIGITS), label, column]))
            sheet.paste(Image.fromarray(face), (margin + column * step, top))
    return sheet
