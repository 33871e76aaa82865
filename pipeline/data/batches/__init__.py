"""Batches on the device, and what feeds them."""
