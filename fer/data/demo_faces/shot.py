"""Circumstances of a demo face: pose, light, camera, and objects in front of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer.data.demo_faces.chance import pick


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
    """Draw random circumstances."""
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
