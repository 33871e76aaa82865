"""Kernels of the regularisers, in numba, Triton and plain torch."""
