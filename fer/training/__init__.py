"""Trained and tested runs from settings."""
