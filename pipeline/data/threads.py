"""Work on a batch, spread over the threads that torch may use in this process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def spread(work: Callable[[int, int], None], count: int, *, least: int = 1) -> None:
    """Call work(begin, end) for 0 .. count, in one part for each thread; work should run without Python's lock.

    least: how many a thread of its own pays for. Raises what a part raises.
    """
    parts = min(torch.get_num_threads(), count // least)
    if parts <= 1:
        work(0, count)
        return
    bounds = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))
