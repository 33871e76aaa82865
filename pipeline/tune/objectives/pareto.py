"""Pareto front: the configurations that no other one dominates."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROWS_AT_ONCE = 512
"""Number of configurations that are compared with all others in one step; bounds the memory used."""


def count_dominating(values: ArrayLike) -> NDArray[np.int64]:
    """Returns the number of others that dominate each configuration, (n,): 0 on the Pareto front.

    One configuration dominates another that it is nowhere worse than, and somewhere better. This count orders
    configurations by Pareto dominance (Fonseca & Fleming, Genetic Algorithms for Multiobjective Optimization,
    ICGA 1993, section 3.1).

    Args:
        values: Finite values, (n, objectives), all to be maximised.
    """
    found = np.asarray(values, dtype=np.float64)
    if not len(found):
        return np.zeros(0, dtype=np.int64)
    counts = []
    for first in range(0, len(found), ROWS_AT_ONCE):
        some = found[first : first + ROWS_AT_ONCE, None, :]
        counts.append(((found >= some).all(axis=2) & (found > some).any(axis=2)).sum(axis=1))
    return np.concatenate(counts).astype(np.int64)
