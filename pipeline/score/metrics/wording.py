"""A metric in words: its name in sentences, its unit, and what is better or worse of it.

What a finished evaluation says of its metric (`evaluation.json`, `metric`) is enough to speak of it; nobody who reads
results needs the module of a user's function.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.config import Params
from pipeline.console.format import format_interval, format_percent, format_points


@dataclass(frozen=True)
class MetricWords:
    """name: as `evaluate.metric` has it. key: in files and in MLflow. label: in sentences. margin: that counts.

    in_points: a share of 1, told in percent, its differences in points; else a plain number.
    """

    name: str
    key: str
    label: str
    margin: float
    lower_is_better: bool = False
    in_points: bool = False

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.lower_is_better else 1

    @property
    def title(self) -> str:
        """The label at the beginning of a sentence."""
        return self.label[0].upper() + self.label[1:]

    @property
    def better(self) -> str:
        """What is better, in a word."""
        return "lower" if self.lower_is_better else "higher"

    @property
    def best(self) -> str:
        """The best of several values, in a word."""
        return "lowest" if self.lower_is_better else "highest"

    @property
    def worse(self) -> str:
        """What is worse, in a word."""
        return "higher" if self.lower_is_better else "lower"

    @property
    def harm(self) -> str:
        """What an endpoint rules out, in a word."""
        return "rise" if self.lower_is_better else "loss"

    def format_margin(self, margin: float | None = None) -> str:
        """The margin, or another amount of its kind: `1 point`, `0.02`."""
        amount = self.margin if margin is None else margin
        if not self.in_points:
            return f"{amount:.4g}"
        return f"{100 * amount:.4g} point{'s' * (f'{100 * amount:.4g}' != '1')}"

    def format_difference(self, difference: float, digits: int = 1, *, unit: bool = True) -> str:
        """A difference with its sign: `+1.2 points`, `+0.012`. digits: of points; plain numbers have as fine ones."""
        if self.in_points:
            return format_points(difference, digits, unit=unit)
        places = self._places(digits)
        return f"{round(difference, places) + 0.0:+.{places}f}"

    def format_interval(self, low: float, high: float, digits: int = 1) -> str:
        """An interval of differences: `interval -0.3 to +1.2 points`, `interval -0.003 to +0.012`."""
        if self.in_points:
            return format_interval(low, high, digits)
        return f"interval {self.format_difference(low, digits)} to {self.format_difference(high, digits)}"

    def format_value(self, value: float, digits: int = 1) -> str:
        """A value: `91.2 %`, `0.912`."""
        return format_percent(value, digits) if self.in_points else f"{value:.{self._places(digits)}f}"

    def format_size(self, amount: float, digits: int = 1, *, unit: bool = True) -> str:
        """An amount of a difference, without a sign: `0.43 points`, `0.0012`."""
        return self.format_difference(abs(amount), digits, unit=unit).lstrip("+")

    def fine_digits(self, *ends: float | None) -> int:
        """1, or 2 where an end of an interval would round to 0, which hides the side of 0 that it lies on."""
        least = 0.0005 if self.in_points else 0.5 * 10.0 ** -self._places(1)
        return 1 if min(abs(end or 0.0) for end in ends) >= least else 2

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def _places(self, digits: int) -> int:
        # Two digits of the margin and one more with each step: .01 has three places, 50 has none.
        return max(0, math.ceil(-math.log10(self.margin)) + digits)


ACCURACY_WORDS = MetricWords("accuracy", "accuracy", "accuracy", 0.01, in_points=True)


def accuracy_words(params: Params) -> MetricWords:
    """Accuracy in words, with `evaluate.margin` where that is of accuracy."""
    given = params.evaluate.margin if params.evaluate.metric == ACCURACY_WORDS.name else None
    return ACCURACY_WORDS if given is None else replace(ACCURACY_WORDS, margin=given)


def words_of(metric: MetricWords | None, margin: float | None = None) -> MetricWords:
    """What results say of their metric; accuracy, in those of an earlier version. margin: of these."""
    if metric is not None:
        return metric
    return ACCURACY_WORDS if margin is None else replace(ACCURACY_WORDS, margin=margin)
