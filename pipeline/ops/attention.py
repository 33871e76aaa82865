"""Which images' attention is drawn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.splits import Ids


def one_of_each(ids: Ids, labels: NDArray[np.int64], count: int) -> list[int]:
    """`count` of the ids (or all), going round the classes, always the same ones for the same split."""
    by_class: dict[int, list[int]] = {}
    for index in ids:
        by_class.setdefault(int(labels[index]), []).append(int(index))
    queues: Sequence[list[int]] = [by_class[label] for label in sorted(by_class)]
    turns = range(max((len(queue) for queue in queues), default=0))
    return [queue[turn] for turn in turns for queue in queues if turn < len(queue)][:count]
