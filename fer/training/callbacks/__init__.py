"""Callbacks: work beside the training steps."""
