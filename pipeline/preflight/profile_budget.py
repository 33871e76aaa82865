"""How long measuring may take: about 20 s in all, also where a single step of the network takes as long.

Of a network that is large for a CPU, steps of a few images are timed in place of whole batches, fewer images are
scored, and configurations are left out when the time is over; all of it is scaled up, and the plan calls it an
estimate.
"""

import time
from collections.abc import Callable

from rich.console import Console

from pipeline.console.progress import ProgressLine

MOST_S = 20.0
"""Seconds that measuring takes in all, but for what cannot be divided: a network built, a step of a few images."""
LARGE = 5e10
"""Operations of a step, above which it is not tried whole: about what a core does in a second or two."""
FEW = 2
"""Images of a step of a large network; fewer cannot be mixed."""


class ProfileBudget(ProgressLine):
    """Time that measuring has, and its progress. Use it as a context manager around the measurements.

    Args:
        operations: floating-point operations of a step; None where steps are to stay whole.
        num_configs: configurations to measure.
        console: where progress is printed; None for standard output.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        operations: float | None,
        num_configs: int,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(self._parts, console=console, clock=clock)
        self._whole, self.is_limited = operations is None, (operations or 0.0) > LARGE
        self._num_configs, self._began = num_configs, clock()
        self._measured, self._longest = 0, 0.0
        self._started: float | None = None

    def order_configs(self) -> list[int]:
        """The order in which configurations are measured: in a hurry, those that enclose the others come first."""
        everything = list(range(self._num_configs))
        return [0, *everything[:0:-1]] if self.is_limited else everything

    @property
    def seconds_left(self) -> float:
        """Seconds that are left of the time in all."""
        return MOST_S - (self._clock() - self._began)

    def begin_config(self, *, enough: bool) -> bool:
        """Whether there is time for another configuration, by what the others took. enough: one has been measured,
        without which nothing can be told.
        """
        left = self.seconds_left
        if self._started is not None:
            self._longest = max(self._longest, self._started - left)
        self._started = left
        if enough and left <= self._longest:
            return False
        self._measured += 1
        return True

    def _parts(self) -> list[str]:
        few = ", a few images at a time" if self.is_limited else ""
        return [
            f"measuring what training takes: configuration {self._measured} of {self._num_configs}{few}; "
            f"{max(self.seconds_left, 1):.0f} s at most (--no-measure leaves it out)"
        ]

    def share(self) -> float:
        """Seconds that the configuration being measured may take."""
        return max(0.0, self.seconds_left) / (self._num_configs - self._measured + 1)

    def record_step(self, seconds: float) -> None:
        """Hurry from now on if the first step of a configuration took more than half of its share."""
        self.is_limited |= not self._whole and seconds > self.share() / 2

    def num_images(self, batch: int, micro_batches: int) -> int:
        """Images of a step, of a batch that is run in so many micro-batches."""
        return min(batch, max(FEW, micro_batches)) if self.is_limited else batch
