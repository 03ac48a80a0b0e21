"""Noisy-label facial expression recognition: training, sweeps and reports around EAC (ECCV 2022)."""

__version__ = "0.1.0"
