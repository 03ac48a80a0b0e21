"""Backbones, the classification network on top of them, and safe loading of weights."""
