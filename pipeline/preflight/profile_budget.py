"""Time limit of the measurement: about 20 s, even if a single training step of the network takes as long.

For a network that is large for a CPU, steps of a few images are timed in place of whole batches. Fewer images are
scored, and configurations are left out when the time is over. The results are scaled up, and the plan calls them an
estimate.
"""

import time
from collections.abc import Callable

from rich.console import Console

from pipeline.console.progress import ProgressLine

MOST_S = 20.0
"""Seconds of the whole measurement, without its indivisible parts: building a network, a step of a few images."""
LARGE = 5e10
"""Operations of a step above which no whole step is tried: about one or two seconds of a CPU core."""
FEW = 2
"""Images of a step of a large network; mixing needs two."""


class ProfileBudget(ProgressLine):
    """Time left for the measurement, and a status line that shows the progress on a terminal.

    It is a context manager, within which the measurement runs.

    Attributes:
        is_limited: Whether steps are reduced to a few images.

    Args:
        operations: Operations of a step; None to keep steps whole.
        num_configs: Number of configurations to measure.
        console: Console of the status line; None for standard output.
        clock: Returns the time in seconds.
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
        """Returns the order in which configurations are measured.

        If the time is limited, those that enclose the others come first.
        """
        everything = list(range(self._num_configs))
        return [0, *everything[:0:-1]] if self.is_limited else everything

    @property
    def seconds_left(self) -> float:
        """Seconds that are left of the whole time."""
        return MOST_S - (self._clock() - self._began)

    def begin_config(self, *, enough: bool) -> bool:
        """Returns whether there is time for another configuration, judged by the longest one so far.

        Args:
            enough: Whether one has been measured, without which there is no estimate.
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
        """Returns the seconds that the current configuration may take."""
        return max(0.0, self.seconds_left) / (self._num_configs - self._measured + 1)

    def record_step(self, seconds: float) -> None:
        """Sets `is_limited` if the first step of a configuration took more than half of that configuration's share.

        Less is then measured of this configuration, and the steps of later ones have a few images only. Where whole
        steps are measured, as on a GPU, nothing is reduced.

        Args:
            seconds: Duration of the first step.
        """
        self.is_limited |= self.is_too_slow(seconds)

    def is_too_slow(self, seconds: float) -> bool:
        """Returns whether less is measured after a first step that took so many seconds."""
        return not self._whole and seconds > self.share() / 2

    def num_images(self, batch: int, micro_batches: int) -> int:
        """Returns the images of a timed step, for a batch that is run in so many micro-batches."""
        return min(batch, max(FEW, micro_batches)) if self.is_limited else batch
