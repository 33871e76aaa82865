"""Decoding of image files: safely opened pictures, masks and bit depths become square uint8 arrays."""
