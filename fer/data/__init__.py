"""From files to batches: readers, noise, the image store and the LightningDataModule."""
