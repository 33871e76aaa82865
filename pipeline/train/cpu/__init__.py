"""Faster training on CPUs: linear layers by oneDNN. Optional."""
