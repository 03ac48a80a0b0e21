"""Glasses, and objects between a demo face and the camera."""

from __future__ import annotations

import math

import numpy as np

from fer.data.demo_faces.canvas import Canvas, Stencil, mirrored, points, ribbon, smooth, vector
from fer.data.demo_faces.chance import BLACK, Color, FloatArray, mix
from fer.data.demo_faces.person import Person

_AROUND = np.linspace(0.0, 2 * math.pi, 29, dtype=np.float32)


def draw_glasses(canvas: Canvas, person: Person) -> None:
    if person.glasses == "none":
        return
    cos, sin = np.cos(_AROUND), np.sin(_AROUND)
    power, tall = (1.0, 0.24) if person.glasses == "round" else (0.5, 0.18)
    lens = np.stack([0.26 * np.sign(cos) * np.abs(cos) ** power, tall * np.sign(sin) * np.abs(sin) ** power], axis=1)
    at = vector(0.4 * person.eye_gap, 0.03)
    rims = canvas.turn(mirrored(at + lens), lift=0.12)
    lenses = canvas.turn(mirrored(at + 0.86 * lens), lift=0.12)
    temple = points((0.63, -0.04), (0.86, -0.08), (0.86, -0.03), (0.63, 0.02)) * vector(person.width, 1.0)
    bridge = canvas.turn(points((-0.16, -0.03), (0.16, -0.03), (0.16, 0.02), (-0.16, 0.02)), lift=0.15)
    temples = canvas.turn(mirrored(temple))
    frame = canvas.stencil(*temples, bridge, *rims, *lenses, values=[1.0] * 5 + [0.0] * 2)
    canvas.paint(canvas.stencil(*lenses), (0.85, 0.9, 1.0), density=0.08)
    canvas.paint(frame, person.frame)


def draw_occluder(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    """Draw a hand at the chin, a cup, a strand of hair or an object at the picture's edge; mostly nothing."""
    kind, side = canvas.shot.occluder, 1.0 if rng.random() < 0.5 else -1.0
    mirror = vector(side, 1.0)
    bright = float(rng.uniform(0.7, 1.0))
    if kind == "hand":
        at = float(rng.uniform(0.75, 0.95))
        reach = rng.uniform(-0.06, 0.06, 4)
        for finger in range(4):
            y = at + 0.15 * finger
            tip = (0.12 + 0.03 * finger + float(reach[finger]), y - 0.04)
            path = smooth(points(tip, (0.45, y), (0.8, y + 0.12), (1.2, y + 0.4)) * mirror)
            _finger(canvas, path, tuple(bright * level for level in person.skin))
    elif kind == "cup":
        top, wide = float(rng.uniform(0.82, 1.0)), float(rng.uniform(0.28, 0.42))
        x = float(rng.uniform(0.0, 0.25)) * side
        cup = points((x - wide, top), (x + wide, top), (x + 0.8 * wide, 1.9), (x - 0.8 * wide, 1.9))
        color = np.asarray(person.cloth, dtype=np.float32)[::-1] * 0.6 + 0.3
        stencil = canvas.stencil(cup)
        shade = np.linspace(1.1, 0.7, stencil.cover.shape[1], dtype=np.float32)[
            :: -1 if canvas.shot.light[0] > 0 else 1
        ]
        canvas.paint(stencil, color[:, None, None] * np.broadcast_to(shade, stencil.cover.shape))
    elif kind == "strand" and person.hairstyle not in ("bald", "cap", "scarf"):
        path = points((0.1, -1.05), (0.42, -0.6), (0.52, -0.1), (0.56, 0.35), (0.48, 0.75)) * mirror
        lock = ribbon(smooth(path), float(rng.uniform(0.1, 0.2)))
        canvas.paint(canvas.stencil(canvas.turn(lock, lift=0.1), soft=0.4), mix(person.hair, BLACK, 0.15))
    elif kind == "edge":
        x, y, size = float(rng.uniform(0.8, 1.15)) * side, float(rng.uniform(-0.4, 1.0)), float(rng.uniform(0.35, 0.6))
        disc = vector(x, y) + np.stack([size * np.cos(_AROUND), 1.5 * size * np.sin(_AROUND)], axis=1)
        canvas.paint(canvas.stencil(disc, soft=2.5), mix(person.cloth, (0.2, 0.2, 0.2), 0.5))


def _finger(canvas: Canvas, path: FloatArray, skin: tuple[float, ...]) -> None:
    red, green, blue = skin
    color: Color = (red, green, blue)
    layers: list[tuple[Stencil, Color]] = [
        (canvas.stencil(_rounded(path, 0.17)), mix(color, (0.2, 0.08, 0.05), 0.55)),
        (canvas.stencil(_rounded(path, 0.135)), color),
    ]
    for stencil, tint in layers:
        canvas.paint(stencil, tint)


def _rounded(path: FloatArray, width: float) -> FloatArray:
    """A stroke with a round beginning."""
    start = np.clip(np.arange(len(path), dtype=np.float32) / 4, 0.06, 1.0)
    return ribbon(path, width * np.sqrt(1.0 - (1.0 - start) ** 2 + 0.02), taper=False)
