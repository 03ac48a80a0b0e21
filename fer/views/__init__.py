"""Training and test views, made from uint8 batches on the training device."""
