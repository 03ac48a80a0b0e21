"""Procedural faces: parameters (actions, person, shot) and drawing (canvas, relief, hair, props, drawing)."""
