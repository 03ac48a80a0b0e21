"""Person in a demo face: the face at rest, hair, beard, clothes and glasses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer.data.demo_faces.chance import BLACK, Color, mix, pick


@dataclass(frozen=True)
class Person:
    """A face at rest. Lengths are in units of about half a face's width; shape factors are 1 on average."""

    age: float  # 0 young .. 1 old
    male: bool
    skin: Color
    hair: Color
    iris: Color
    lips: Color
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
    headgear: Color
    cloth: Color
    frame: Color
    parting: float  # -1 left .. 1 right
    beard: str
    glasses: str


_SKIN: tuple[Color, ...] = (
    (0.98, 0.85, 0.76),
    (0.94, 0.77, 0.65),
    (0.87, 0.68, 0.53),
    (0.76, 0.56, 0.41),
    (0.60, 0.41, 0.28),
    (0.44, 0.29, 0.20),
    (0.33, 0.21, 0.15),
)
_DARK_HAIR: tuple[Color, ...] = ((0.08, 0.07, 0.07), (0.14, 0.10, 0.08), (0.22, 0.15, 0.10))
_HAIR: tuple[Color, ...] = (
    *_DARK_HAIR,
    (0.36, 0.23, 0.14),
    (0.52, 0.36, 0.20),
    (0.78, 0.62, 0.38),
    (0.55, 0.24, 0.12),
)
_IRIS: tuple[Color, ...] = ((0.28, 0.17, 0.10), (0.20, 0.12, 0.08), (0.30, 0.45, 0.60), (0.33, 0.43, 0.30))


def _dye(rng: np.random.Generator) -> Color:
    """A color of cloth: seldom garish."""
    tone = rng.uniform(0.1, 0.8) + rng.normal(0.0, 0.12, 3)
    red, green, blue = (float(level) for level in np.clip(tone, 0.03, 0.95))
    return red, green, blue


def _around_one(rng: np.random.Generator, spread: float) -> float:
    """A shape factor: normal about 1, without its tails."""
    return 1.0 + spread * float(np.clip(rng.normal(), -2.2, 2.2))


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a random person."""
    tone = float(rng.beta(1.1, 1.5)) * (len(_SKIN) - 1.001)
    skin = mix(_SKIN[int(tone)], _SKIN[int(tone) + 1], tone % 1.0)
    age, male = float(rng.beta(1.3, 1.8)), bool(rng.random() < 0.5)
    palette = _HAIR if tone < 2.5 else _DARK_HAIR
    hair = palette[int(rng.integers(len(palette)))]
    hair = mix(hair, (0.78, 0.77, 0.75), float(np.clip((age - 0.55) * 2.2 + rng.normal(0.0, 0.12), 0.0, 0.95)))
    red = (0.72, 0.30, 0.30) if male or rng.random() < 0.6 else (0.76, 0.12, 0.20)
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
        width=_around_one(rng, 0.05),
        jaw=_around_one(rng, 0.06) + (0.05 if male else -0.04),
        chin=_around_one(rng, 0.05) + (0.03 if male else -0.02),
        eye_size=_around_one(rng, 0.1) + (0.0 if male else 0.06),
        eye_gap=_around_one(rng, 0.05),
        eye_tilt=float(rng.normal(0.01, 0.015)),
        brow_height=float(rng.normal(0.0, 0.016)),
        brow_weight=_around_one(rng, 0.2) + (0.15 if male else -0.2),
        brow_arch=float(rng.normal(0.0, 0.02)),
        brow_tilt=float(rng.normal(0.0, 0.014)),
        nose_width=_around_one(rng, 0.12) + (0.08 if male else -0.05),
        nose_length=_around_one(rng, 0.07),
        mouth_width=_around_one(rng, 0.08),
        mouth_tilt=float(rng.normal(0.0, 0.009)),
        lip=_around_one(rng, 0.2) + (-0.1 if male else 0.12),
        hairstyle=pick(rng, styles),
        hair_length=float(rng.uniform(1.0, 2.2)),
        headgear=_dye(rng),
        cloth=_dye(rng),
        frame=mix(BLACK, _dye(rng), 0.35),
        parting=float(rng.uniform(-1.0, 1.0)),
        beard=pick(rng, beards) if male else "none",
        glasses=pick(rng, frames),
    )
