"""Data sets: lists, images, label noise, batches."""
