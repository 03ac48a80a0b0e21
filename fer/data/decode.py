"""From an image file of any common kind to 8-bit RGB pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 80_000_000
_ORIENTATION = 0x0112


class ImageFault(ValueError):
    """An image file that gives no pixels; the message says why, without naming the file."""


def decode(path: Path) -> Image.Image:
    """The picture as an upright 8-bit RGB image of PIL.

    Grey, palette, CMYK and 16-bit pictures are converted, transparent pixels become white, the orientation written by
    a camera is applied, and of several frames the first is taken.

    Raises:
        ImageFault: the file is missing, damaged, no image, or has more than ``MAX_PIXELS`` pixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageFault(f"{image.width} x {image.height} pixels are more than the allowed {MAX_PIXELS:,}")
            return _to_rgb(image)
    except ImageFault:
        raise
    except UnidentifiedImageError as error:
        raise ImageFault("not an image in a known format") from error
    except Image.DecompressionBombError as error:
        raise ImageFault(f"more than the allowed {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # PIL's decoders raise many kinds on damaged files
        raise ImageFault(f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if "exif" in image.info and image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # PIL would clip 16-bit grey at 255. It gives such files as I;16, older versions give 16-bit PNG as I.
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ImageFault("grey values outside 0..65535; save it with 8 or 16 bits")
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
