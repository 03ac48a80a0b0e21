"""Batches of stored images."""
