"""Batches on the device: iteration over a role, the storage of its pixels, and decoding ahead."""
