"""Decoding of image files of any common format to 8-bit RGB pixels."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 80_000_000
MAX_EDGE = 2048
"""Longest edge of stored images and of views, in pixels."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are opened, by the content of a file. Pillow knows others that start programs, such as EPS."""
MAX_BYTES = 1 << 30
"""Size of an image file; ``MAX_PIXELS`` need less in every common format."""
_ORIENTATION = 0x0112
_BROKEN_READ = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


class ImageFault(ValueError):
    """An image file that gives no pixels; the message says why, without naming the file."""


class FileFault(ImageFault):
    """A file that is missing or cannot be read; nothing is known about its image."""


def file_state(path: Path) -> os.stat_result:
    """Size, times and so on of a regular file, or of the one that a link leads to.

    Raises:
        FileFault: there is none.
    """
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileFault("a link that leads to no file" if path.is_symlink() else "missing") from error
    except OSError as error:
        raise FileFault(f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(state.st_mode):  # opening a pipe could wait forever
        raise FileFault("a folder" if stat.S_ISDIR(state.st_mode) else "not a file but a device or a pipe")
    return state


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file for reading, unbuffered; a pipe that takes its place meanwhile does not make this wait.

    Raises:
        FileFault: the file is missing, is none, or cannot be read.
    """
    file_state(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        stream = os.fdopen(descriptor, "rb", buffering=0)
    except OSError as error:
        raise FileFault(f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise FileFault("not a file but a device or a pipe")
    return stream


def decode(path: Path) -> Image.Image:
    """The picture as an upright 8-bit RGB image of PIL.

    Gray, palette, CMYK and 16-bit pictures are converted, transparent pixels become white, the orientation written by
    a camera is applied, and of several frames the first is taken.

    Raises:
        FileFault: the file is missing or cannot be read.
        ImageFault: it is empty, damaged, no image, or has more than ``MAX_PIXELS`` pixels or ``MAX_BYTES`` bytes.
    """
    check_size(file_state(path).st_size)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise FileFault(f"cannot be read ({error.strerror})") from error
    with stream:
        return _decode(stream)


def decode_bytes(content: bytes) -> Image.Image:
    """``decode`` for the content of a file, without the faults of the file itself."""
    check_size(len(content))
    return _decode(io.BytesIO(content))


def check_size(size: int) -> None:
    """Refuse an empty or too large image file.

    Raises:
        ImageFault: saying which.
    """
    if not size:
        raise ImageFault("empty")
    if size > MAX_BYTES:
        raise ImageFault(f"{size:,} bytes are more than the allowed {MAX_BYTES:,}")


def _decode(stream: IO[bytes]) -> Image.Image:
    try:
        with Image.open(stream, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageFault(f"{image.width} x {image.height} pixels are more than the allowed {MAX_PIXELS:,}")
            return _to_rgb(image)
    except ImageFault:
        raise
    except UnidentifiedImageError as error:
        raise ImageFault("not an image in a known format (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM)") from error
    except Image.DecompressionBombError as error:
        raise ImageFault(f"more than the allowed {MAX_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise FileFault("cannot be decoded for want of memory") from error
    except Exception as error:  # PIL's decoders raise many kinds on damaged files
        if isinstance(error, OSError) and error.errno in _BROKEN_READ:
            raise FileFault(f"cannot be read ({error.strerror})") from error
        raise ImageFault(f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if "exif" in image.info and image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # PIL would clip 16-bit gray at 255. It gives such files as I;16, older versions give 16-bit PNG as I.
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ImageFault("gray values outside 0..65535; save it with 8 or 16 bits")
        return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageFault("floating-point pixels have no fixed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """uint8 (3, size, size) of an RGB image, resized with PIL's bilinear filter where its size is another."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
