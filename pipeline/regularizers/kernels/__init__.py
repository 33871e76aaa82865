"""Kernels of the regularisers: numba, Triton, plain torch."""
