"""Relief of a demo face: bulges, dips, folds, and places that light hardly reaches."""

from __future__ import annotations

import numpy as np

from fer.data.demo_faces.actions import Actions
from fer.data.demo_faces.canvas import Canvas, Spot, mirrored, points, ribbon, smooth
from fer.data.demo_faces.chance import FloatArray
from fer.data.demo_faces.person import Person


def shape_skin(canvas: Canvas, person: Person, actions: Actions) -> None:
    """Nose, cheeks, brow ridge, eye sockets, lips and chin."""
    a, nose = actions, person.nose_width
    tip = 0.42 * person.nose_length - 0.04 * a.nose - 0.02 * a.upper_lip
    lid = 0.05 * (1.0 - 0.5 * a.lid_raise)
    cheek = 0.05 + 0.075 * a.cheek + 0.03 * a.corner_pull
    below_lip = 1.0 + 0.22 * a.jaw
    bumps = [
        Spot(0.09, 0.0, 0.08, 0.09, 0.22, 0.1),
        Spot(0.13, 0.0, tip - 0.03, 0.13 * nose, 0.13, 0.28),
        Spot(0.05, 0.0, 0.72, 0.36, 0.2),
        Spot(-0.05, 0.0, below_lip, 0.2, 0.06),
        Spot(0.06, 0.0, 1.1 * person.chin + 0.14 * a.jaw, 0.2, 0.12),
    ]
    # The nose throws its shadow away from the light.
    right, down, front = canvas.shot.light
    hollows = [
        Spot(0.4, -0.14 * right / front, tip + 0.1 - 0.06 * down, 0.15, 0.07, 0.1),
        Spot(0.22, 0.0, below_lip - 0.02, 0.16, 0.05),
    ]
    for s in (-1.0, 1.0):
        bumps += [
            Spot(0.045, s * 0.14 * nose, tip + 0.03, 0.06, 0.06, 0.1),
            Spot(0.05, s * 0.4, -0.27, 0.3, 0.1),
            Spot(-0.07, s * 0.36, 0.0, 0.26, 0.15),
            Spot(lid, s * 0.4, -0.02, 0.17, 0.1),
            Spot(cheek, s * 0.5, 0.4 - 0.06 * a.cheek, 0.24, 0.2),
        ]
        hollows += [
            Spot(0.25, s * 0.2, -0.03, 0.12, 0.14),
            Spot(0.10 + 0.14 * person.age, s * 0.37, 0.15, 0.17, 0.06),
        ]
    canvas.raise_skin(bumps)
    canvas.darken(hollows)


def draw_creases(canvas: Canvas, person: Person, actions: Actions) -> None:
    """Folds and wrinkles: grooves in the relief, a little darker than the skin around them."""
    a, old = actions, max(0.0, person.age - 0.35)
    raised = 0.6 * old + 0.75 * max(a.inner_brow, a.outer_brow)
    reach = 0.2 + 0.35 * min(1.0, a.outer_brow / (a.inner_brow + 0.1))
    lift = 0.05 * (a.nose + a.upper_lip)
    wide = 0.08 * a.corner_pull + 0.05 * a.stretch
    cheek_fold = 0.12 + 0.5 * old + 0.6 * a.corner_pull + 0.75 * a.nose + 0.5 * a.upper_lip + 0.2 * a.stretch
    crow = 0.5 * old + 0.7 * a.cheek
    wing = 0.17 * person.nose_width
    middle = [
        *(((-reach, y + 0.02), (0.0, y), (reach, y + 0.02), raised) for y in (-0.84, -0.72, -0.6)),
        ((-0.09, -0.1), (0.0, -0.085), (0.09, -0.1), 0.15 * old + 0.8 * a.nose),
        ((-0.13, 1.0), (0.0, 0.975), (0.13, 1.0), 0.7 * a.chin),
    ]
    paired = [
        ((0.07, -0.46), (0.055, -0.36), (0.075, -0.25), 0.3 * old + 1.0 * a.brow_lower),
        ((wing, 0.38 - lift), (0.31 + 0.7 * wide, 0.54 - 0.7 * lift), (0.42 + wide, 0.8), cheek_fold),
        ((wing + 0.02, 0.37 - lift), (0.32 + 0.7 * wide, 0.54 - 0.7 * lift), (0.42 + wide, 0.78), cheek_fold),
        *(((0.65, 0.02 + d / 2), (0.7, 0.02 + 0.8 * d), (0.77, 0.02 + 1.3 * d), crow) for d in (-0.06, 0.0, 0.06)),
        ((0.24, 0.14), (0.38, 0.19), (0.54, 0.14), 0.12 + 0.5 * old + 0.45 * a.cheek),
        ((0.04, 0.06), (0.12, 0.0), (0.19, -0.03), 0.9 * a.nose),
        ((0.08, 0.16), (0.15, 0.1), (0.22, 0.09), 0.9 * a.nose),
        ((0.38, 0.86), (0.43, 0.95), (0.42, 1.03), 0.25 * old + 0.6 * a.corner_drop),
    ]
    centerd = [(points(*line), depth) for *line, depth in middle if depth > 0.06]
    sided = [(mirrored(points(*line)), depth) for *line, depth in paired if depth > 0.06]
    lines: list[FloatArray] = [line for line, _ in centerd]
    depths = [depth for _, depth in centerd]
    for both, depth in sided:
        lines.extend(both)
        depths += [depth, depth]
    strokes = canvas.turn(ribbon(smooth(np.stack(lines)), 0.035))
    crease = canvas.stencil(*strokes, values=[min(1.0, depth) for depth in depths], soft=0.6)
    canvas.height[crease.window] -= np.float32(0.03) * crease.cover
    shade = np.array([0.22, 0.30, 0.32], dtype=np.float32)[:, None, None]
    canvas.image[:, *crease.window] *= 1.0 - shade * crease.cover
