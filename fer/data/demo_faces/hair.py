"""Hair, beards, headgear and ears of the demo faces."""

from __future__ import annotations

import numpy as np

from fer.data.demo_faces.actions import Actions
from fer.data.demo_faces.canvas import Canvas, mirrored, points, ribbon, smooth, vector
from fer.data.demo_faces.chance import FloatArray, mix
from fer.data.demo_faces.person import Person

_MIRROR = np.array([-1.0, 1.0], dtype=np.float32)
_VOLUME = {"short": 0.06, "side": 0.13, "curly": 0.24, "long": 0.13, "fringe": 0.13, "cap": 0.1, "scarf": 0.1}
_FALLS_BEHIND = ("long", "fringe", "scarf")


def _over_crown(center: tuple[float, float], *right: tuple[float, float]) -> FloatArray:
    """A curve from the left ear over the crown to the right one, from its right half."""
    half = points(*right)
    return np.concatenate([half[::-1] * _MIRROR, points(center), half])


def draw_hair_behind(canvas: Canvas, person: Person) -> None:
    """Draw the hair that falls behind the neck."""
    if person.hairstyle not in _FALLS_BEHIND:
        return
    long = person.hair_length
    right = ((0.75, -1.05), (1.02, -0.4), (1.08, 0.3), (1.08, 0.6 * long + 0.3), (0.95, long + 0.3))
    curve = smooth(_over_crown((0.0, -1.2), *right) * vector(person.width, 1.0))
    tint = person.hair if person.hairstyle != "scarf" else person.headgear
    canvas.paint(canvas.stencil(canvas.turn(curve, depth=-0.1)), mix(tint, (0.03, 0.02, 0.02), 0.4))


def draw_ears(canvas: Canvas, person: Person, *, front: bool) -> None:
    """Draw both ears behind the head's edge, or, in ``front`` of the hair, the ear that a turned head shows."""
    yaw = canvas.shot.yaw
    if front and (person.hairstyle in _FALLS_BEHIND or abs(yaw) < 0.1):
        return
    ear = points((0.8, -0.1), (0.93, -0.14), (0.98, 0.08), (0.9, 0.32), (0.8, 0.3)) * vector(person.width, 1.0)
    ears = canvas.turn(smooth(mirrored(ear), closed=True), depth=-0.05)
    shown = ears[[0 if yaw > 0 else 1]] if front else ears
    canvas.paint(canvas.stencil(*shown), mix(person.skin, (0.6, 0.2, 0.15), 0.2))


def draw_front_hair(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    """Draw hair, a cap or a scarf, from the hairline outwards."""
    style, part = person.hairstyle, person.parting
    if style == "bald":
        return
    more = _VOLUME[style] + float(rng.uniform(-0.02, 0.05))
    outer = _over_crown(
        (0.0, -1.12 - more),
        (0.6, -1.0 - more),
        (0.88 + 0.45 * more, -0.6 - 0.4 * more),
        (0.91 + 0.6 * more, -0.2),
        (0.88 + 0.4 * more, 0.06),
    )
    if style == "fringe":
        inner = _over_crown((0.0, -0.5), (0.48, -0.46), (0.74, -0.4), (0.8, -0.1), (0.81, 0.1))
    elif style in ("cap", "scarf"):
        inner = _over_crown((0.0, -0.66), (0.48, -0.6), (0.74, -0.44), (0.84, -0.2), (0.86, 0.05))
    else:
        high = -0.82 - (0.12 * person.age if person.male else 0.0)
        inner = _over_crown((0.0, high), (0.46, high + 0.06), (0.7, -0.48), (0.8, -0.2), (0.83, 0.02))
        if style != "curly":  # combed over from the parting, where the hairline stands highest
            inner[:, 1] -= 0.1 * abs(part) * np.exp(-(((inner[:, 0] - 0.45 * np.sign(part)) / 0.3) ** 2))
    if style in ("long", "fringe"):  # falls along the cheeks and over the ears
        side = points((0.86, 0.45), (0.84, 0.95))
        inner = np.concatenate([(side * _MIRROR)[::-1], inner[1:-1], side])
        outer = np.concatenate([(side * _MIRROR * 1.16)[::-1], outer[1:-1], side * 1.16])
    wide = vector(person.width, 1.0)
    inner, outer = smooth(inner * wide, steps=5), smooth(outer * wide, steps=5)
    if style == "curly":
        count = np.arange(len(outer), dtype=np.float32)[:, None]
        outer = outer * (1.0 + 0.045 * np.sin(1.9 * count + part))
        inner = inner + vector(0.0, 0.035) * np.sin(1.7 * count)
    near, far = canvas.turn(inner), canvas.rim(outer, depth=-0.05)
    if style not in ("cap", "scarf"):  # the tips taper
        near += np.clip((inner[:, 1:] - inner[-1, 1] + 0.2) / 0.2, 0.0, 1.0) * (far - near)
    # On the far side the hair lies behind the outline: the hairline must not pass the hair's own edge.
    side = np.sign(outer[:, 0])
    near[:, 0] = np.where(side * near[:, 0] > side * far[:, 0], far[:, 0], near[:, 0])
    outline = np.concatenate([near, far[::-1]])
    if style in ("cap", "scarf"):
        cloth = canvas.stencil(outline)
        canvas.height[cloth.window] *= 1.0 - cloth.cover
        canvas.paint(cloth, person.headgear)
        return
    # Strands run from the hairline outwards, swept aside by the parting; each has its own tone.
    shift = np.clip(np.arange(len(far)) + round(4 * part), 0, len(far) - 1)
    blend = np.linspace(0.0, 1.0, 3, dtype=np.float32)[:, None, None]
    edges = (near + blend * (far - near) + blend * (1.0 - blend) * (far[shift] - far)).transpose(1, 0, 2)
    strands = np.concatenate([edges[:-1], edges[1:, ::-1]], axis=1)
    tones = np.clip(rng.normal(0.6, 0.11, len(strands)), 0.25, 1.0).tolist()
    hair = canvas.stencil(outline, *strands)
    tone = canvas.stencil(outline, *strands, values=[0.6, *tones])  # the same shapes, so the same window
    canvas.height[hair.window] *= 1.0 - hair.cover
    tint = np.asarray(person.hair, dtype=np.float32)[:, None, None]
    canvas.paint(hair, tint * np.maximum(0.25 + 1.25 * tone.cover, 0.5))


def draw_beard(canvas: Canvas, person: Person, actions: Actions, lips: FloatArray, rng: np.random.Generator) -> None:
    """Draw stubble or a beard around the ``lips`` (a shape in the plane of the picture)."""
    kind, chin = person.beard, 1.24 * person.chin + 0.16 * actions.jaw
    if kind == "none":
        return
    shapes = []
    if kind in ("full", "stubble"):
        side = points((0.8, 0.1), (0.84, 0.3), (0.79, 0.62), (0.6, 0.96), (0.33, chin - 0.03))
        edge = points((0.0, 0.6), (0.3, 0.62), (0.52, 0.62), (0.7, 0.35), (0.76, 0.08)) * vector(person.width, 1.0)
        side = side * vector(person.width * person.jaw, 1.0)
        ring = [edge, side, points((0.0, chin + 0.02)), side[::-1] * _MIRROR, edge[:0:-1] * _MIRROR]
        shapes.append(canvas.rim(smooth(np.concatenate(ring), closed=True), depth=0.3))
    if kind in ("moustache", "goatee"):
        hair = points((-0.36, 0.76), (-0.18, 0.65), (0.0, 0.62), (0.18, 0.65), (0.36, 0.76))
        shapes.append(canvas.turn(ribbon(smooth(hair), 0.1), lift=0.05))
    if kind == "goatee":
        tuft = points((-0.2, 0.98), (0.2, 0.98), (0.24, chin - 0.1), (0.0, chin + 0.02), (-0.24, chin - 0.1))
        shapes.append(canvas.turn(smooth(tuft, closed=True)))
    beard = canvas.stencil(*shapes, lips, values=[1.0] * len(shapes) + [0.0], soft=1.0)
    grain = 1.0 + 0.1 * rng.standard_normal(beard.cover.shape, dtype=np.float32)
    density = np.clip((0.3 if kind == "stubble" else 0.82) * grain, 0.0, 1.0)
    canvas.paint(beard, mix(person.hair, (0.1, 0.08, 0.08), 0.3), density=density)
