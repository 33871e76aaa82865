"""Augmentation of training images: flips, crops, RandAugment, erasing, and their numba kernels."""
