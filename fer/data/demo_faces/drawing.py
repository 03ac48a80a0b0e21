"""Demo faces: a face drawn feature by feature from its parameters, exact in its label and different every time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fer.data.demo_faces.actions import EXPRESSIONS, Actions, draw_actions
from fer.data.demo_faces.canvas import Canvas, Spot, draw_backdrop, mirrored, points, ribbon, smooth, vector
from fer.data.demo_faces.chance import BLACK, FloatArray, mix
from fer.data.demo_faces.hair import draw_beard, draw_ears, draw_front_hair, draw_hair_behind
from fer.data.demo_faces.person import Person, draw_person
from fer.data.demo_faces.props import draw_glasses, draw_occluder
from fer.data.demo_faces.relief import draw_creases, shape_skin
from fer.data.demo_faces.shot import draw_shot

_ALONG = np.linspace(-1.0, 1.0, 21, dtype=np.float32)  # a lip or a lid from one corner to the other
_AROUND = np.linspace(0.0, 2 * np.pi, 25, dtype=np.float32)
_SIDES = np.array([[-1.0], [1.0]], dtype=np.float32)


def draw_face(expression: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A face that shows ``expression`` (0..6 in RAF-DB order), RGB uint8 (100, 100, 3); all else comes from ``rng``.

    Raises:
        ValueError: ``expression`` is not in 0..6.
    """
    if not 0 <= expression < EXPRESSIONS:
        raise ValueError(f"expression must be 0..{EXPRESSIONS - 1} (RAF-DB order), got {expression}")
    actions, person, shot = draw_actions(expression, rng), draw_person(rng), draw_shot(rng)
    backdrop = draw_backdrop(rng)
    canvas = Canvas(shot)
    draw_hair_behind(canvas, person)
    _draw_head(canvas, person, actions, rng)
    shape_skin(canvas, person, actions)
    draw_creases(canvas, person, actions)
    _draw_nose(canvas, person, actions)
    _draw_eyes(canvas, person, actions)
    _draw_brows(canvas, person, actions, rng)
    lips = _draw_mouth(canvas, person, actions)
    draw_beard(canvas, person, actions, lips, rng)
    draw_front_hair(canvas, person, rng)
    draw_ears(canvas, person, front=True)
    draw_glasses(canvas, person)
    canvas.light()
    draw_occluder(canvas, person, rng)
    return canvas.photograph(backdrop, rng)


def _draw_head(canvas: Canvas, person: Person, actions: Actions, rng: np.random.Generator) -> None:
    wide, jaw = person.width, person.width * person.jaw
    chin = 1.22 * person.chin + 0.16 * actions.jaw
    half = 0.5 if person.male else 0.4
    neck = points((-half, 0.6), (half, 0.6), (half, 1.5), (half + 0.3, 2.2), (-half - 0.3, 2.2), (-half, 1.5))
    canvas.paint(canvas.stencil(canvas.turn(neck, depth=0.0)), mix(person.skin, (0.25, 0.1, 0.08), 0.3))
    collar = points((0.0, 1.34 + 0.35 * person.age), (half + 0.08, 1.32), (1.5, 1.55), (2.2, 2.3))
    collar = np.concatenate([(collar[1:] * vector(-1.0, 1.0))[::-1], collar])
    canvas.paint(canvas.stencil(canvas.turn(collar, depth=0.0)), person.cloth)
    canvas.image *= 1.0 - canvas.bells([Spot(0.5, 0.0, chin + 0.06, 0.7, 0.22, -0.4)])
    draw_ears(canvas, person, front=False)
    right = points((0.5, -1.03), (0.78, -0.68), (0.88, -0.15), (0.85, 0.25), (0.765, 0.62), (0.575, 0.95), (0.31, 1.17))
    right[:, 0] *= np.array([wide] * 4 + [jaw] * 3, dtype=np.float32)
    right[4:, 1] *= (chin / 1.22) ** np.array([0.4, 0.75, 1.0], dtype=np.float32)
    left = right[::-1] * vector(-1.0, 1.0)
    outline = smooth(np.concatenate([points((0.0, -1.13)), right, points((0.0, chin)), left]), closed=True)
    # The chin stands forward, so it swings further than the temples when the head turns.
    forward = np.clip((outline[:, 1] - 0.3) * (1 / 0.9), 0.0, 1.0) * np.clip(1.0 - np.abs(outline[:, 0]), 0.0, 1.0)
    turned = np.maximum if canvas.shot.yaw > 0 else np.minimum
    rim, front = canvas.rim(outline), canvas.turn(outline, depth=0.75 * forward)
    rim[:, 0] = turned(rim[:, 0], front[:, 0])
    rim[:, 1] = front[:, 1]
    head = canvas.stencil(rim)
    canvas.paint(head, person.skin)
    red = 0.10 if person.male else 0.15
    flush = canvas.bells([Spot(red, x, y, 0.24, 0.18) for x, y in ((-0.48, 0.36), (0.48, 0.36), (0.0, 0.42))])
    mottle = rng.standard_normal((25, 25), dtype=np.float32).repeat(4, 0).repeat(4, 1)[head.window]
    skin = canvas.image[:, *head.window]
    skin[1:] *= 1.0 - head.cover * flush[head.window]
    skin *= 1.0 + (0.008 + 0.012 * person.age) * mottle * head.cover


def _draw_nose(canvas: Canvas, person: Person, actions: Actions) -> None:
    base = 0.5 * person.nose_length - 0.04 * actions.nose - 0.02 * actions.upper_lip
    wide = vector(person.nose_width * (1.0 + 0.14 * actions.nose), 1.0)
    hole = points((0.03, base), (0.07, base - 0.03), (0.108, base - 0.012), (0.085, base + 0.012))
    wing = points((0.145, base - 0.1), (0.185, base - 0.05), (0.17, base), (0.115, base + 0.012))
    holes = canvas.turn(smooth(mirrored(hole * wide), closed=True), lift=0.16)
    wings = canvas.turn(ribbon(smooth(mirrored(wing * wide)), 0.035), lift=0.1)
    canvas.paint(canvas.stencil(*wings, *holes, values=(0.35, 0.35, 0.9, 0.9)), mix(person.skin, BLACK, 0.7))


def _draw_eyes(canvas: Canvas, person: Person, actions: Actions) -> None:
    a, size, shot = actions, person.eye_size, canvas.shot
    uneven = 1.0 + _SIDES * np.float32(shot.lean)
    half, center = 0.182 * size**0.5, 0.395 * person.eye_gap
    up = 1.0 + (0.8 * a.lid_raise - 0.4 * a.lid_tight) * uneven - 0.3 * a.nose - 0.28 * a.cheek - 0.55 * a.droop
    low = 1.0 + (0.3 * a.lid_raise - 0.55 * a.lid_tight - 1.0 * a.cheek) * uneven - 0.35 * a.nose
    low = 0.055 * size * low
    up = np.maximum(0.08 * size * up, 0.02 - low)
    slant = person.eye_tilt - 0.02 * a.droop - 0.012 * a.inner_brow

    def upper(t: FloatArray) -> FloatArray:
        curve: FloatArray = -up * (1.0 - np.abs(t) ** 2.3) * (1.0 - 0.12 * t) - slant * t
        return curve

    def lower(t: FloatArray) -> FloatArray:
        curve: FloatArray = low * (1.0 - np.abs(t) ** 2.2) * (1.0 + 0.15 * t) - slant * t
        return curve

    def at(y: FloatArray) -> FloatArray:
        return np.stack([np.broadcast_to(_SIDES * (center + half * _ALONG), y.shape), y], axis=-1)

    def between(top: FloatArray, bottom: FloatArray) -> FloatArray:
        return canvas.turn(np.concatenate([at(top), at(bottom)[:, ::-1]], axis=1))

    look_x = 0.09 * shot.gaze[0]
    look_y = -0.012 + 0.06 * shot.gaze[1] + 0.035 * a.droop

    def disc(radius: float, dx: float = 0.0, dy: float = 0.0) -> FloatArray:
        """Discs on both eyeballs, as far as the lids leave them free."""
        x = _SIDES * center + (look_x + dx + radius * np.cos(_AROUND))
        t = np.clip((_SIDES * x - center) * (1 / half), -1.0, 1.0)
        y = np.clip(look_y + dy + radius * np.sin(_AROUND), upper(t), lower(t))
        return canvas.turn(np.stack([x, y], axis=-1))

    top, bottom, bare = upper(_ALONG), lower(_ALONG), mix(person.skin, BLACK, 0.6)
    iris = 0.08 * size**0.5
    fold = top - (0.055 - 0.03 * a.lid_raise - 0.02 * a.lid_tight) * (1.0 - 0.5 * _ALONG**2)
    canvas.paint(canvas.stencil(*canvas.turn(ribbon(at(fold), 0.028))), bare, density=0.35)
    canvas.paint(canvas.stencil(*between(top, bottom)), mix((0.94, 0.92, 0.9), person.skin, 0.1))
    canvas.paint(canvas.stencil(*disc(iris)), mix(person.iris, BLACK, 0.4))
    canvas.paint(canvas.stencil(*disc(0.75 * iris)), person.iris)
    canvas.paint(canvas.stencil(*disc(0.42 * iris)), BLACK)
    # The lid shades the eyeball; its rim with the lashes is the darkest line of the face.
    canvas.paint(canvas.stencil(*between(top, top + 0.3 * (up + low))), BLACK, density=0.3)
    glint = 0.3 * iris * (1.0 if shot.light[0] > 0 else -1.0)
    canvas.paint(canvas.stencil(*disc(0.27 * iris, glint, -0.4 * iris)), (1.0, 1.0, 1.0))
    thick = 0.032 if person.male else 0.044
    canvas.paint(canvas.stencil(*canvas.turn(ribbon(at(bottom + 0.006), 0.018))), bare, density=0.5)
    lash = canvas.stencil(*canvas.turn(ribbon(at(top - 0.2 * thick), thick)))
    canvas.paint(lash, mix(person.skin, BLACK, 0.85 if person.male else 0.95), density=0.95)


def _draw_brows(canvas: Canvas, person: Person, actions: Actions, rng: np.random.Generator) -> None:
    a = actions
    uneven = 1.0 + _SIDES[:, 0] * np.float32(canvas.shot.lean)
    inner, outer = a.inner_brow * uneven, a.outer_brow * uneven
    low = a.brow_lower * uneven * (1.0 - 0.6 * min(1.0, a.inner_brow))
    base, tilt = -0.27 - person.brow_height, person.brow_tilt
    frown, sag = a.brow_lower, 0.02 * np.maximum(0.0, inner - outer)
    x = np.array([0.145 - 0.06 * frown, 0.28 - 0.035 * frown, 0.47, 0.68], dtype=np.float32)
    y = np.stack(
        [
            base + tilt - 0.17 * inner + 0.14 * low + 0.05 * a.nose,
            base - 0.045 - 0.12 * inner - 0.04 * outer + 0.115 * low + 0.035 * a.nose,
            base - 0.075 - person.brow_arch - 0.03 * inner - 0.13 * outer + 0.055 * low,
            base - tilt + sag - 0.12 * outer - 0.01 * low,
        ],
        axis=-1,
    ).astype(np.float32)
    path = smooth(np.stack([_SIDES * x, y], axis=-1), steps=7)
    share = np.linspace(0.0, 1.0, path.shape[1], dtype=np.float32)
    width = 0.085 * person.brow_weight * np.minimum(0.75 + 1.5 * share, 1.25 - 1.05 * share)
    roots = rng.integers(0, path.shape[1] - 3, 8)
    hairs = np.stack([path[:, roots], path[:, roots + 3]], axis=2)
    hairs[..., 1] += width[roots][:, None] * vector(0.6, -0.55)
    strokes = canvas.turn(ribbon(hairs, 0.022)).reshape(-1, 4, 2)
    bands = canvas.turn(ribbon(path, width, taper=False))
    values = [0.78] * len(bands) + [0.95] * len(strokes)
    brows = canvas.stencil(*bands, *strokes, values=values, soft=0.3)
    canvas.paint(brows, mix(person.hair, mix(person.skin, BLACK, 0.5), 0.3), density=0.95)


def _draw_mouth(canvas: Canvas, person: Person, actions: Actions) -> FloatArray:
    """Draw it and return its outline (N, 2) in the plane of the picture, where no beard grows."""
    a, t = actions, _ALONG
    bow = np.abs(t)
    rounded = a.jaw * max(0.0, 1.0 - a.corner_pull - a.stretch)
    width = 1.0 + 0.36 * a.corner_pull + 0.3 * a.stretch - 0.34 * rounded - 0.08 * a.press - 0.1 * a.funnel
    width *= 0.33 * person.mouth_width
    corner = 0.17 * a.corner_pull - 0.13 * a.corner_drop - 0.04 * a.stretch - 0.03 * a.upper_lip - 0.02 * a.press
    center = 0.78 - 0.025 * a.chin - 0.02 * a.nose + 0.03 * a.jaw
    line = center - (corner * (1.0 + 0.7 * canvas.shot.lean * t) + person.mouth_tilt) * (bow**1.7 - 0.3)
    power = 2.0 + 2.5 * min(1.0, a.funnel + 0.5 * a.stretch)
    arch = np.clip(1.0 - bow**power, 0.0, 1.0)
    gape = np.sqrt(arch) if rounded > 0.3 else arch**0.8
    open_up = (0.02 * a.part + 0.03 * a.corner_pull * a.part + 0.06 * a.funnel + 0.06 * a.jaw) * gape
    open_up = open_up + 0.1 * a.upper_lip * a.part * arch
    open_low = (0.05 * a.part + 0.08 * a.corner_pull * a.part + 0.07 * a.funnel + 0.28 * a.jaw) * gape
    thin = 1.0 - 0.65 * a.press - 0.25 * a.corner_pull - 0.2 * a.stretch - 0.15 * a.upper_lip
    thick = 0.075 * person.lip * max(0.25, thin)
    cupid = 1.0 - 0.3 * np.exp(-((t / 0.14) ** 2))
    sneer = 0.035 * a.upper_lip * (0.3 + 0.7 * bow) * (1.0 - bow**4)
    upper_in, lower_in = line - open_up, line + open_low
    upper_out = upper_in - thick * cupid * (1.0 - bow**2.2) - sneer
    lower_out = lower_in + 1.35 * thick * np.clip(1.0 - bow**2.4, 0.0, 1.0) ** 0.8
    x = width * t

    def band(top: FloatArray, bottom: FloatArray) -> FloatArray:
        edges = [np.stack([x, top], axis=1), np.stack([x, bottom], axis=1)[::-1]]
        return canvas.turn(np.concatenate(edges), lift=0.05)

    outline = band(upper_out, lower_out)
    canvas.paint(canvas.stencil(outline), mix(person.lips, BLACK, 0.15), density=0.9)
    canvas.paint(canvas.stencil(band(lower_in, lower_out - 0.01)), person.lips, density=0.8)
    canvas.raise_skin([Spot(0.035 * person.lip, 0.0, float(lower_in[10]) + 0.6 * thick, 0.6 * width, 0.045, 0.05)])
    if float((open_up + open_low).max()) > 0.03:
        canvas.paint(canvas.stencil(band(upper_in, lower_in)), (0.17, 0.045, 0.05))
        if a.jaw > 0.35:
            tongue = lower_in - 0.35 * open_low * np.clip(1.0 - (bow / 0.75) ** 2, 0.0, 1.0)
            canvas.paint(canvas.stencil(band(tongue, lower_in)), (0.58, 0.24, 0.24), density=0.8)
        bared = 0.8 * a.corner_pull + 0.9 * a.funnel + 0.8 * a.upper_lip + 0.7 * a.stretch + 0.25 * a.jaw
        bared = min(1.0, bared)
        reach = np.clip(1.06 - bow**6, 0.0, 1.0)
        edge = np.clip(upper_in + (0.03 + 0.085 * bared) * reach, upper_in, np.maximum(lower_in - 0.004, upper_in))
        teeth, values = [band(upper_in, edge)], [bared]
        if a.funnel + 0.7 * a.stretch > 0.4:
            teeth.append(band(np.clip(lower_in - 0.07 * reach, np.minimum(edge + 0.014, lower_in), lower_in), lower_in))
            values.append(0.85 * bared)
        ivory = mix((0.97, 0.95, 0.9), (0.8, 0.7, 0.5), 0.5 * person.age)
        canvas.paint(canvas.stencil(*teeth, values=values), ivory, density=0.95)
    else:
        path = np.stack([x, 0.5 * (upper_in + lower_in)], axis=1)
        canvas.paint(canvas.stencil(canvas.turn(ribbon(path, 0.032), lift=0.05)), mix(person.lips, BLACK, 0.75))
    depth = 0.2 + 0.22 * a.corner_pull + 0.12 * a.corner_drop
    canvas.darken([Spot(depth, 1.06 * float(x[end]), float(line[end]), 0.05, 0.05) for end in (0, -1)])
    return outline
