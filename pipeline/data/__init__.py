"""Images: found in their sources, decoded, prepared once, split by ids, augmented, and fed to training in batches."""
