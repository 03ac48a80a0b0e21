"""The canvas of a demo face: a turned head's coordinates, antialiased shapes, soft relief, light and camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from fer.data.demo_faces.chance import Color, FloatArray
from fer.data.demo_faces.shot import Shot

SIZE = 100
"""Edge length of a finished face, pixels (that of RAF-DB's aligned images)."""
_FINE = 4  # shapes are drawn this much larger, then averaged
_PIVOT = 0.55  # depth of the axis about which the head turns, so that a turned face stays in the middle


def vector(*values: float) -> FloatArray:
    """A few numbers as a float32 array."""
    return np.array(values, dtype=np.float32)


def points(*pairs: tuple[float, float]) -> FloatArray:
    """Points (N, 2) of a shape in the face's own coordinates: x right, y down, the eyes at y = 0."""
    return np.array(pairs, dtype=np.float32)


def mirrored(right: FloatArray) -> FloatArray:
    """The shapes (2, N, 2) on the picture's left and right side of a face, from that on the right (N, 2)."""
    return np.stack([right * vector(-1.0, 1.0), right])


@cache
def _spline_basis(steps: int) -> FloatArray:
    t = np.arange(steps, dtype=np.float32)[:, None] / steps
    cubic = np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]], dtype=np.float32) / 2
    basis: FloatArray = np.concatenate([t**0, t, t**2, t**3], axis=1) @ cubic
    return basis


def smooth(control: FloatArray, *, closed: bool = False, steps: int = 6) -> FloatArray:
    """A Catmull-Rom spline (..., M, 2) through ``control`` (..., N, 2)."""
    head, tail = control[..., :1, :], control[..., -1:, :]
    if closed:
        parts = [tail, control, control[..., :2, :]]
    else:
        parts = [2 * head - control[..., 1:2, :], control, 2 * tail - control[..., -2:-1, :]]
    padded = np.concatenate(parts, axis=-2)
    pieces = padded.shape[-2] - 3
    windows = np.stack([padded[..., i : pieces + i, :] for i in range(4)], axis=-2)
    curve: FloatArray = (_spline_basis(steps) @ windows).reshape(*control.shape[:-2], pieces * steps, 2)
    return curve if closed else np.concatenate([curve, tail], axis=-2)


@cache
def _pointed(count: int) -> FloatArray:
    profile: FloatArray = np.sqrt(np.sin(np.linspace(0.05, math.pi - 0.05, count, dtype=np.float32)))
    return profile


def ribbon(path: FloatArray, width: float | FloatArray, *, taper: bool = True) -> FloatArray:
    """The outline (..., 2N, 2) of a stroke along ``path`` (..., N, 2), pointed at both ends if ``taper``.

    ``width`` is one number or one per point of the path.
    """
    steps = path[..., 1:, :] - path[..., :-1, :]
    along = np.concatenate([steps[..., :1, :], steps[..., 1:, :] + steps[..., :-1, :], steps[..., -1:, :]], axis=-2)
    half = np.float32(0.5) * np.asarray(width, dtype=np.float32)
    if taper:
        half = half * _pointed(path.shape[-2])
    scale = half / (np.sqrt(along[..., 0] ** 2 + along[..., 1] ** 2) + np.float32(1e-6))
    offset = np.stack([-along[..., 1] * scale, along[..., 0] * scale], axis=-1)
    return np.concatenate([path + offset, (path - offset)[..., ::-1, :]], axis=-2)


class Stencil(NamedTuple):
    """Coverage in 0..1 of a part of the picture."""

    window: tuple[slice, slice]
    cover: FloatArray


class Spot(NamedTuple):
    """A bell about the point (x, y) of the face, ``amount`` high; lengths in face units."""

    amount: float
    x: float
    y: float
    rx: float
    ry: float
    lift: float = 0.0


class Canvas:
    """The figure before its background, (3, SIZE, SIZE) in 0..1, with the relief that the light will show.

    Colors are premultiplied by ``alpha``. Shapes lie in the plane of the picture, in face units; ``turn`` brings
    points of the face there.
    """

    def __init__(self, shot: Shot) -> None:
        self.shot = shot
        self.image = np.zeros((3, SIZE, SIZE), dtype=np.float32)
        self.alpha = np.zeros((SIZE, SIZE), dtype=np.float32)
        self.height = np.zeros((SIZE, SIZE), dtype=np.float32)
        self.shadow = np.ones((SIZE, SIZE), dtype=np.float32)
        self._cos, self._sin = math.cos(shot.roll), math.sin(shot.roll)
        cos, sin = self._cos * shot.scale, self._sin * shot.scale
        self._to_pixels = np.array([[cos, sin], [-sin, cos]], dtype=np.float32)
        self._center = np.array([shot.x, shot.y], dtype=np.float32)
        self._pixels = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)

    def turn(
        self, face: FloatArray, *, depth: float | FloatArray | None = None, lift: float | FloatArray = 0.0
    ) -> FloatArray:
        """Points of the face (..., 2) as the turned head shows them; without ``depth`` they lie on its front."""
        x, y = face[..., 0], face[..., 1]
        away: float | FloatArray
        if depth is None:
            away = np.sqrt(np.clip(1.0 - x * x - ((y - 0.1) * (1 / 1.7)) ** 2, 0.02, 1.0)) + (lift - _PIVOT)
        else:
            away = depth - _PIVOT
        # A head is deeper than it is wide, so turning narrows it little.
        cos = 0.4 + 0.6 * math.cos(self.shot.yaw)
        turned = np.empty(face.shape, dtype=np.float32)
        turned[..., 0] = x * cos + away * math.sin(self.shot.yaw)
        turned[..., 1] = y + away * math.sin(self.shot.pitch)
        return turned

    def rim(self, face: FloatArray, *, depth: float = 0.0) -> FloatArray:
        """Points of the head's outline (..., 2), turned: on the far side a part nearer the front forms the outline."""
        far = np.clip(face[..., 0] * math.copysign(min(1.0, abs(self.shot.yaw) / 0.3), self.shot.yaw), 0.0, 1.0)
        return self.turn(face, depth=np.float32(depth) + np.float32(0.45) * far)

    def stencil(self, *shapes: FloatArray, values: Sequence[float] | None = None, soft: float = 0.0) -> Stencil:
        """Coverage by ``shapes`` (N, 2), painted in turn with their values (1 if not given); ``soft``: blur, pixels."""
        everything = np.concatenate(shapes) @ self._to_pixels + self._center
        margin = 1.0 + 2.5 * soft
        left, top = (max(0, min(SIZE - 1, math.floor(v - margin))) for v in everything.min(axis=0).tolist())
        right, bottom = (max(1, min(SIZE, math.ceil(v + margin))) for v in everything.max(axis=0).tolist())
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        fine = Image.new("L", ((right - left) * _FINE, (bottom - top) * _FINE))
        pen = ImageDraw.Draw(fine)
        # Pillow takes a pixel's center for its coordinate.
        flat = ((everything - vector(left, top)) * _FINE - np.float32(0.5)).ravel().tolist()
        start = 0
        for index, shape in enumerate(shapes):
            end = start + 2 * len(shape)
            pen.polygon(flat[start:end], fill=255 if values is None else round(255 * values[index]))
            start = end
        small = fine.reduce(_FINE)
        if soft:
            small = small.filter(ImageFilter.GaussianBlur(soft))
        cover = np.asarray(small, dtype=np.float32) * np.float32(1 / 255)
        return Stencil((slice(top, bottom), slice(left, right)), cover)

    def paint(self, stencil: Stencil, color: Color | FloatArray, *, density: float | FloatArray = 1.0) -> None:
        """Lay ``color``, (3) or (3, h, w) of the stencil's window, over what is there."""
        tint = np.asarray(color, dtype=np.float32)
        if tint.ndim == 1:
            tint = tint[:, None, None]
        cover = stencil.cover * density
        image, alpha = self.image[:, *stencil.window], self.alpha[stencil.window]
        image += cover * (tint - image)
        alpha += cover * (1.0 - alpha)

    def bells(self, spots: Sequence[Spot]) -> FloatArray:
        """The sum of the spots' bells, (SIZE, SIZE)."""
        amount, x, y, rx, ry, lift = np.array(spots, dtype=np.float32).T[:, :, None]
        at = self.turn(np.concatenate([x, y], axis=1), lift=lift[:, 0]) @ self._to_pixels + self._center
        across = (self._pixels - at[:, :1]) / (rx * np.float32(self.shot.scale))
        down = (self._pixels - at[:, 1:]) / (ry * np.float32(self.shot.scale))
        total: FloatArray = (np.exp(-down * down) * amount).T @ np.exp(-across * across)
        return total

    def raise_skin(self, spots: Sequence[Spot]) -> None:
        """Add bumps with amounts in face units; negative amounts make dips."""
        self.height += self.bells(spots)

    def darken(self, spots: Sequence[Spot]) -> None:
        """Darken places that light hardly reaches; an amount is the share of missing light."""
        self.shadow *= np.exp(-self.bells(spots))

    def light(self) -> None:
        """Light the figure: an ellipsoid with the relief on it, lit from one side, plus light from all around."""
        shot = self.shot
        along = (self._pixels - self._center[0])[None, :] * np.float32(1 / shot.scale)
        across = (self._pixels - self._center[1])[:, None] * np.float32(1 / shot.scale)
        x = (along * self._cos + across * self._sin + _PIVOT * math.sin(shot.yaw)) * np.float32(1 / 1.08)
        y = (across * self._cos - along * self._sin - 0.08) * np.float32(1 / 1.55)
        z = np.sqrt(np.clip(1.0 - x * x - y * y, 0.06, 1.0))
        slope = np.float32(0.55 * shot.scale)  # half the pixels' distance, and relief a little exaggerated
        x[:, 1:-1] -= slope * (self.height[:, 2:] - self.height[:, :-2])
        y[1:-1] -= slope * (self.height[2:] - self.height[:-2])
        per_length = 1.0 / np.sqrt(x * x + y * y + z * z)
        towards = x * shot.light[0] + y * shot.light[1]
        facing = np.clip((towards + z * shot.light[2]) * per_length, 0.0, 1.0)
        halfway = math.sqrt(2.0 + 2.0 * shot.light[2])
        gloss = np.clip((towards + z * (shot.light[2] + 1.0)) * per_length * (1 / halfway), 0.0, 1.0)
        for _ in range(4):
            gloss *= gloss
        lit = (shot.ambient + (1.16 - shot.ambient) * facing) * self.shadow
        # Light that has wandered through skin comes out red: shadows on a face are warm.
        self.image[0] *= lit * (1.13 - 0.13 * lit)
        self.image[1] *= lit
        self.image[2] *= lit * (0.92 + 0.08 * lit)
        self.image += self.alpha * self.shadow * gloss * np.float32(shot.gloss)

    def photograph(self, backdrop: FloatArray, rng: np.random.Generator) -> NDArray[np.uint8]:
        """The finished picture, uint8 (SIZE, SIZE, 3), before ``backdrop`` (3, SIZE, SIZE)."""
        shot = self.shot
        picture = (self.image + (1.0 - self.alpha) * backdrop) * np.float32(shot.exposure)
        gray = 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
        picture = gray + (picture - gray) * np.float32(shot.saturation)
        picture[0] *= 1.0 + shot.warmth * shot.saturation
        picture[2] *= 1.0 - shot.warmth * shot.saturation
        # A soft shoulder instead of a hard clip: bright skin keeps its form.
        over = np.maximum(picture - 0.7, 0.0)
        picture += 0.3 * (1.0 - np.exp(over * (-1 / 0.3))) - over
        levels = np.clip(picture * 255.0, 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0)
        if shot.blur > 0.2:
            levels = np.asarray(Image.fromarray(levels).filter(ImageFilter.GaussianBlur(shot.blur)))
        noise = rng.standard_normal((SIZE, SIZE, 1), dtype=np.float32) * np.float32(255 * shot.grain)
        finished: NDArray[np.uint8] = np.clip(levels + noise, 0.0, 255.0).astype(np.uint8)
        return finished


def draw_backdrop(rng: np.random.Generator) -> FloatArray:
    """A background (3, SIZE, SIZE) out of focus."""
    cells, half = int(rng.integers(2, 6)), SIZE // 2
    base = rng.uniform(0.1, 0.85) + rng.normal(0.0, 0.07, 3)
    coarse = base + rng.normal(0.0, 0.12, (cells, cells, 1)) + rng.normal(0.0, 0.03, (cells, cells, 3))
    image = Image.fromarray((np.clip(coarse, 0.02, 1.0) * 255).astype(np.uint8))
    image = image.resize((half, half), Image.Resampling.BICUBIC)
    if rng.random() < 0.6:
        pen = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(1, 6))):
            shade = np.clip(base + rng.normal(0.0, 0.17) + rng.normal(0.0, 0.07, 3), 0.0, 1.0) * 255
            red, green, blue = (int(level) for level in shade)
            x, y, w, h = (float(v) for v in rng.uniform((-10, -10, 3, 3), (half, half, half * 0.6, half * 0.9)))
            (pen.rectangle if rng.random() < 0.6 else pen.ellipse)((x, y, x + w, y + h), fill=(red, green, blue))
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2.5))))
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) * np.float32(1 / 255)
