"""Batches on the device: the loader over a role, where its pixels are kept, and prefetching."""
