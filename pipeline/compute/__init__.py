"""CPU kernels and limits: how numba compiles, how work is spread over threads, which cores and memory there are."""
