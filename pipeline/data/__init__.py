"""Image data: sources, decoding, the prepared set, splits by image id, augmentation, and batches for training."""
