"""What a demo face is drawn from: the muscle actions of an expression, the person, and the circumstances of the shot.

The actions follow the Facial Action Coding System (Ekman, Friesen and Hager, 2002): an expression is a set of action
units, each with its own strength, laid over the shape that the person's face has at rest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Colour = tuple[float, float, float]
_T = TypeVar("_T")

EXPRESSIONS = 7
BLACK: Colour = (0.05, 0.03, 0.03)
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


@dataclass(frozen=True)
class Person:
    """A face at rest. Lengths are in units of about half a face's width; shape factors are 1 on average."""

    age: float  # 0 young .. 1 old
    male: bool
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    width: float
    jaw: float
    chin: float
    eye_size: float
    eye_gap: float
    eye_tilt: float
    brow_height: float
    brow_weight: float
    brow_arch: float
    brow_tilt: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_tilt: float
    lip: float
    hairstyle: str
    hair_length: float
    headgear: Colour
    cloth: Colour
    frame: Colour
    parting: float  # -1 left .. 1 right
    beard: str
    glasses: str


_SKIN: tuple[Colour, ...] = (
    (0.98, 0.85, 0.76),
    (0.94, 0.77, 0.65),
    (0.87, 0.68, 0.53),
    (0.76, 0.56, 0.41),
    (0.60, 0.41, 0.28),
    (0.44, 0.29, 0.20),
    (0.33, 0.21, 0.15),
)
_DARK_HAIR: tuple[Colour, ...] = ((0.08, 0.07, 0.07), (0.14, 0.10, 0.08), (0.22, 0.15, 0.10))
_HAIR: tuple[Colour, ...] = (
    *_DARK_HAIR,
    (0.36, 0.23, 0.14),
    (0.52, 0.36, 0.20),
    (0.78, 0.62, 0.38),
    (0.55, 0.24, 0.12),
)
_IRIS: tuple[Colour, ...] = ((0.28, 0.17, 0.10), (0.20, 0.12, 0.08), (0.30, 0.45, 0.60), (0.33, 0.43, 0.30))


def pick(rng: np.random.Generator, weighted: list[tuple[float, _T]]) -> _T:
    """One of the values, with probability proportional to its weight."""
    weights = np.cumsum([weight for weight, _ in weighted])
    return weighted[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))][1]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` with ``share`` (0..1) of ``second`` in it."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def _dye(rng: np.random.Generator) -> Colour:
    """A colour of cloth: seldom garish."""
    tone = rng.uniform(0.1, 0.8) + rng.normal(0.0, 0.12, 3)
    red, green, blue = (float(level) for level in np.clip(tone, 0.03, 0.95))
    return red, green, blue


def draw_person(rng: np.random.Generator) -> Person:
    """A person at random."""
    tone = float(rng.beta(1.1, 1.5)) * (len(_SKIN) - 1.001)
    skin = mix(_SKIN[int(tone)], _SKIN[int(tone) + 1], tone % 1.0)
    age, male = float(rng.beta(1.3, 1.8)), bool(rng.random() < 0.5)
    palette = _HAIR if tone < 2.5 else _DARK_HAIR
    hair = palette[int(rng.integers(len(palette)))]
    hair = mix(hair, (0.78, 0.77, 0.75), float(np.clip((age - 0.55) * 2.2 + rng.normal(0.0, 0.12), 0.0, 0.95)))
    red = (0.72, 0.30, 0.30) if male or rng.random() < 0.6 else (0.76, 0.12, 0.20)
    around = lambda sd: float(np.clip(rng.normal(1.0, sd), 1.0 - 2.2 * sd, 1.0 + 2.2 * sd))  # noqa: E731
    if male:
        styles = [(0.36, "short"), (0.2, "side"), (0.14, "curly"), (0.14, "bald"), (0.1, "cap"), (0.06, "long")]
    else:
        styles = [(0.4, "long"), (0.2, "fringe"), (0.14, "side"), (0.12, "curly"), (0.09, "scarf"), (0.05, "short")]
    beards = [(0.5, "none"), (0.2, "stubble"), (0.14, "full"), (0.08, "moustache"), (0.08, "goatee")]
    frames = [(0.8, "none"), (0.1, "round"), (0.1, "square")]
    return Person(
        age=age,
        male=male,
        skin=skin,
        hair=hair,
        iris=_IRIS[int(rng.integers(2 if tone > 2.5 else 4))],
        lips=mix(skin, red, float(rng.uniform(0.35, 0.55)) if male else float(rng.uniform(0.45, 0.8))),
        width=around(0.05),
        jaw=around(0.06) + (0.05 if male else -0.04),
        chin=around(0.05) + (0.03 if male else -0.02),
        eye_size=around(0.1) + (0.0 if male else 0.06),
        eye_gap=around(0.05),
        eye_tilt=float(rng.normal(0.01, 0.015)),
        brow_height=float(rng.normal(0.0, 0.016)),
        brow_weight=around(0.2) + (0.15 if male else -0.2),
        brow_arch=float(rng.normal(0.0, 0.02)),
        brow_tilt=float(rng.normal(0.0, 0.014)),
        nose_width=around(0.12) + (0.08 if male else -0.05),
        nose_length=around(0.07),
        mouth_width=around(0.08),
        mouth_tilt=float(rng.normal(0.0, 0.009)),
        lip=around(0.2) + (-0.1 if male else 0.12),
        hairstyle=pick(rng, styles),
        hair_length=float(rng.uniform(1.0, 2.2)),
        headgear=_dye(rng),
        cloth=_dye(rng),
        frame=mix(BLACK, _dye(rng), 0.35),
        parting=float(rng.uniform(-1.0, 1.0)),
        beard=pick(rng, beards) if male else "none",
        glasses=pick(rng, frames),
    )


@dataclass(frozen=True)
class Shot:
    """Pose (angles in radians, offsets in pixels), light and camera."""

    yaw: float
    pitch: float
    roll: float
    scale: float  # pixels per face unit
    x: float
    y: float
    light: tuple[float, float, float]  # unit vector towards the light; x right, y down, z to the camera
    ambient: float
    exposure: float
    warmth: float
    gloss: float
    saturation: float
    blur: float  # standard deviation, pixels
    grain: float
    lean: float  # left-right difference of the actions
    gaze: tuple[float, float]
    occluder: str


def draw_shot(rng: np.random.Generator) -> Shot:
    """Circumstances at random."""
    yaw = float(np.clip(rng.normal(0.0, 0.12), -0.36, 0.36))
    light = np.array([rng.normal(0.0, 0.55), rng.normal(-0.5, 0.3), 0.9])
    light /= np.linalg.norm(light)
    occluders = [(0.88, "none"), (0.03, "hand"), (0.03, "cup"), (0.03, "strand"), (0.03, "edge")]
    return Shot(
        yaw=yaw,
        pitch=float(np.clip(rng.normal(0.0, 0.06), -0.16, 0.16)),
        roll=float(np.clip(rng.normal(0.0, 0.05), -0.15, 0.15)),
        scale=float(rng.uniform(38.0, 41.0)),
        x=float(50.0 + rng.normal(0.0, 0.8)),
        y=float(43.0 + rng.normal(0.0, 0.8)),
        light=(float(light[0]), float(light[1]), float(light[2])),
        ambient=float(rng.uniform(0.35, 0.6)),
        exposure=float(rng.uniform(0.82, 1.12)),
        warmth=float(rng.normal(0.0, 0.05)),
        gloss=float(rng.uniform(0.02, 0.12)),
        saturation=0.0 if rng.random() < 0.06 else float(rng.uniform(0.75, 1.1)),
        blur=float(rng.gamma(1.5, 0.2)),
        grain=float(rng.gamma(2.0, 0.003)),
        lean=float(rng.normal(0.0, 0.1)),
        gaze=(float(rng.normal(0.25 * yaw, 0.12)), float(rng.normal(0.0, 0.08))),
        occluder=pick(rng, occluders),
    )
