"""Random changes of training images, and their kernels."""
