"""Spreads the work on a batch over the threads that torch may use in this process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def spread_over_threads(work: Callable[..., None], count: int, *given: Any, least: int = 1) -> None:
    """Calls `work(begin, end, *given)` for consecutive parts of 0 .. count, one part per thread.

    An exception of a part is raised here.

    Args:
        work: The function; it should release the global interpreter lock.
        count: Number of items, e.g. the images of a batch.
        *given: Further arguments of `work`.
        least: Smallest number of items that is worth a thread of its own.
    """
    parts = min(torch.get_num_threads(), count // least)
    if parts <= 1:
        work(0, count, *given)
        return
    bounds = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(lambda begin, end: work(begin, end, *given), bounds[:-1], bounds[1:]))
