"""Decoding: an image or mask file becomes the square uint8 pixels that a network gets."""
