"""The prepared image set, read."""
