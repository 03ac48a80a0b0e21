"""The muscle actions of each expression.

They follow the Facial Action Coding System (Ekman, Friesen and Hager, 2002): an expression is a set of action units,
each with its own strength, laid over the shape that the person's face has at rest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from fer.data.demo_faces.chance import pick

EXPRESSIONS = 7
SURPRISE, FEAR, DISGUST, HAPPINESS, SADNESS, ANGER, NEUTRAL = range(EXPRESSIONS)


@dataclass(frozen=True)
class Actions:
    """Strength of each action, 0 = at rest, 1 = full; the action unit's number stands beside it."""

    inner_brow: float = 0.0  # 1
    outer_brow: float = 0.0  # 2
    brow_lower: float = 0.0  # 4
    lid_raise: float = 0.0  # 5
    cheek: float = 0.0  # 6
    lid_tight: float = 0.0  # 7
    nose: float = 0.0  # 9
    upper_lip: float = 0.0  # 10
    corner_pull: float = 0.0  # 12
    corner_drop: float = 0.0  # 15
    chin: float = 0.0  # 17
    stretch: float = 0.0  # 20
    funnel: float = 0.0  # 22: the lips form a square
    press: float = 0.0  # 23, 24
    part: float = 0.0  # 25
    jaw: float = 0.0  # 26, 27
    droop: float = 0.0  # 43, and the eyes cast down


# Per expression, variants with their weight.
_VARIANTS: dict[int, tuple[tuple[float, Actions], ...]] = {
    SURPRISE: (
        (0.75, Actions(inner_brow=1.0, outer_brow=1.0, lid_raise=0.9, jaw=1.0)),
        (0.25, Actions(inner_brow=1.0, outer_brow=1.0, lid_raise=0.8, jaw=0.45)),
    ),
    FEAR: (
        (
            0.6,
            Actions(inner_brow=0.95, outer_brow=0.35, brow_lower=0.65, lid_raise=1.0, stretch=1.0, part=0.7, jaw=0.3),
        ),
        (0.4, Actions(inner_brow=0.9, outer_brow=0.3, brow_lower=0.7, lid_raise=1.0, stretch=0.9, part=0.3)),
    ),
    DISGUST: (
        (0.55, Actions(brow_lower=0.55, lid_tight=0.7, nose=1.0, upper_lip=0.8, corner_drop=0.35, chin=0.6)),
        (0.45, Actions(brow_lower=0.5, lid_tight=0.7, nose=1.0, upper_lip=1.0, part=0.6, corner_drop=0.2)),
    ),
    HAPPINESS: (
        (0.55, Actions(cheek=0.8, corner_pull=1.0, part=0.8)),
        (0.3, Actions(cheek=0.6, corner_pull=0.9)),
        (0.15, Actions(cheek=1.0, corner_pull=1.0, part=1.0, jaw=0.5)),
    ),
    SADNESS: (
        (0.6, Actions(inner_brow=1.0, brow_lower=0.45, corner_drop=1.0, chin=0.7, droop=0.6)),
        (0.4, Actions(inner_brow=0.9, brow_lower=0.3, corner_drop=0.8, droop=0.9)),
    ),
    ANGER: (
        (0.6, Actions(brow_lower=1.15, lid_raise=0.3, lid_tight=0.55, press=1.0, chin=0.4)),
        (0.4, Actions(brow_lower=1.1, lid_raise=0.45, lid_tight=0.4, funnel=1.0, part=0.9, nose=0.25)),
    ),
    NEUTRAL: ((1.0, Actions()),),
}


def draw_actions(expression: int, rng: np.random.Generator) -> Actions:
    """Actions of one face showing ``expression`` (0..6, RAF-DB order) at a strength drawn from weak to full."""
    variants = _VARIANTS[expression]
    full = pick(rng, [(weight, actions) for weight, actions in variants])
    strength = 0.75 + 0.5 * float(rng.beta(2.0, 1.5))
    values = {}
    for field in fields(Actions):
        value = float(getattr(full, field.name))
        # Muscles follow a feeling unevenly, and a resting face is never quite at rest.
        value *= strength * float(np.exp(rng.normal(0.0, 0.12)))
        value += max(0.0, float(rng.normal(0.0, 0.035)))
        values[field.name] = min(value, 1.3)
    return Actions(**values)
