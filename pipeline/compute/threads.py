"""Work on a batch, spread over the threads that torch may use in this process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def spread_over_threads(work: Callable[..., None], count: int, *given: Any, least: int = 1) -> None:
    """Call work(begin, end, *given) for 0 .. count, in one part for each thread; it should run without Python's lock.

    least: how many a thread of its own pays for. Raises what a part raises.
    """
    parts = min(torch.get_num_threads(), count // least)
    if parts <= 1:
        work(0, count, *given)
        return
    bounds = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(lambda begin, end: work(begin, end, *given), bounds[:-1], bounds[1:]))
