"""The way of the data: a source is prepared once, split by ids, and fed to training in batches on the device."""
