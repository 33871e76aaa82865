"""CPU kernels and machine limits: compilation by numba, threads, usable cores and memory, temporary folders, usage."""
