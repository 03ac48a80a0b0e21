"""Images are opened by a list of formats, whatever a file is called: no other program is started for one."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest
from PIL import Image

from fer.data.images.decode import FORMATS, ImageFault, decode
from fer.data.images.store import ImageStore
from fer.data.readers import folder
from fer.data.table import DatasetError
from fer.inference.faces import STANDARD_TEMPLATE
from fer.inference.photographs import SUFFIXES, SceneReader, find_images

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears when the program that Pillow starts for EPS is started."""
    mark, programs = tmp_path / "started", tmp_path / "programs"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {mark}\nexit 0\n")
    (programs / "gs").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return mark


@pytest.mark.parametrize("name", ["face.jpg", "face.png", "face.eps"])
def test_no_program_is_started_for_an_image(name: str, ghostscript: Path, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(EPS)
    with pytest.raises(ImageFault, match="not an image in a known format"):
        decode(file)
    scene = SceneReader(32, STANDARD_TEMPLATE, None)(file)
    assert "not an image in a known format" in scene.fault and not scene.faces
    assert not ghostscript.exists()


def test_training_refuses_it_by_name(ghostscript: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / split / name / "0.png")
    (tmp_path / "data" / "train" / "a" / "face.jpg").write_bytes(EPS)
    with pytest.raises(DatasetError, match=r"train/a/face\.jpg: not an image in a known format"):
        ImageStore.open(folder.read(tmp_path / "data"), size=8, cache_dir=tmp_path / "cache")
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_usual_formats_are_read_by_their_content(kind: str, tmp_path: Path) -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 30, 90)).save(encoded, kind)
    (tmp_path / "face.jpg").write_bytes(encoded.getvalue())
    image = decode(tmp_path / "face.jpg")
    assert image.size == (9, 7) and image.mode == "RGB"
    assert max(abs(a - b) for a, b in zip(image.getpixel((4, 3)), (200, 30, 90), strict=True)) < 12  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "DDS", "AVIF", "JPEG2000"])
def test_other_formats_are_not(kind: str, tmp_path: Path) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {kind}")
    encoded = io.BytesIO()
    Image.new("RGB", (16, 16)).save(encoded, kind)
    (tmp_path / "face.png").write_bytes(encoded.getvalue())
    with pytest.raises(ImageFault, match="not an image in a known format"):
        decode(tmp_path / "face.png")


def test_a_folder_of_photographs_names_images_of_these_formats(tmp_path: Path) -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"} <= SUFFIXES
    assert not {".eps", ".ps", ".pdf", ".wmf", ".psd"} & SUFFIXES
    (tmp_path / "a.eps").write_bytes(EPS)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert find_images([str(tmp_path)]) == [tmp_path / "b.png"]
