"""A metric in words: its name in sentences, its unit, and its direction.

A finished evaluation records these words (`evaluation.json`, `metric`). So commands that read results need
not import the module of a user's function.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.config import Params
from pipeline.config.schema.result_sections import is_share
from pipeline.console.format import format_interval, format_percent, format_points

AUROC_NAME = "auroc"
"""Name of the one metric from 0 to 1 that is not shown in percent."""


@dataclass(frozen=True)
class MetricWords:
    """Name, unit and direction of a metric.

    Attributes:
        name: Value of `evaluate.metric`.
        key: Key in files and in MLflow.
        label: Name in sentences.
        margin: Least difference that matters.
        lower_is_better: Whether lower values are better.
        in_points: Whether it is a share of 1, shown in percent with differences in points; else it is a plain
            number.
    """

    name: str
    key: str
    label: str
    margin: float
    lower_is_better: bool = False
    in_points: bool = False

    @property
    def is_share(self) -> bool:
        """True if it lies between 0 and 1, whatever the unit in which it is shown."""
        return self.in_points or is_share(self.name)

    @property
    def sign(self) -> int:
        """1 if higher values are better, else -1."""
        return -1 if self.lower_is_better else 1

    @property
    def title(self) -> str:
        """Label at the beginning of a sentence."""
        return self.label[0].upper() + self.label[1:]

    @property
    def better(self) -> str:
        """A better value in a word, "higher" or "lower"."""
        return "lower" if self.lower_is_better else "higher"

    @property
    def best(self) -> str:
        """Best of several values in a word, "highest" or "lowest"."""
        return "lowest" if self.lower_is_better else "highest"

    @property
    def worse(self) -> str:
        """A worse value in a word, "higher" or "lower"."""
        return "higher" if self.lower_is_better else "lower"

    @property
    def harm(self) -> str:
        """Change that an endpoint rules out, in a word, "loss" or "rise"."""
        return "rise" if self.lower_is_better else "loss"

    def format_margin(self, margin: float | None = None) -> str:
        """Formats the margin, or another amount, such as `1 point` or `0.02`."""
        amount = self.margin if margin is None else margin
        if not self.in_points:
            return f"{amount:.4g}"
        return f"{100 * amount:.4g} point{'s' * (f'{100 * amount:.4g}' != '1')}"

    def format_difference(self, difference: float, digits: int = 1, *, unit: bool = True) -> str:
        """Formats a difference with its sign, such as `+1.2 points` or `+0.012`.

        Args:
            difference: The difference.
            digits: Decimals of points. The decimals of plain numbers follow from the margin and `digits`.
            unit: Whether the unit is included.
        """
        if self.in_points:
            return format_points(difference, digits, unit=unit)
        places = self._places(digits)
        return f"{round(difference, places) + 0.0:+.{places}f}"

    def format_interval(self, low: float, high: float, digits: int = 1) -> str:
        """Formats an interval of differences: `interval -0.3 to +1.2 points` or `interval -0.003 to +0.012`.

        Args:
            low: Lower end.
            high: Upper end.
            digits: As of `format_difference`.
        """
        if self.in_points:
            return format_interval(low, high, digits)
        return f"interval {self.format_difference(low, digits)} to {self.format_difference(high, digits)}"

    def format_value(self, value: float, digits: int = 1) -> str:
        """Formats a value, such as `91.2 %` or `0.912`."""
        return format_percent(value, digits) if self.in_points else f"{value:.{self._places(digits)}f}"

    def format_size(self, amount: float, digits: int = 1, *, unit: bool = True) -> str:
        """Formats the size of a difference, without its sign, such as `0.43 points` or `0.0012`.

        Args:
            amount: The difference.
            digits: As of `format_difference`.
            unit: Whether the unit is included.
        """
        return self.format_difference(abs(amount), digits, unit=unit).lstrip("+")

    def margin_above(self, loss: float) -> float:
        """Returns the least margin with few decimals that is larger than a loss, as a parameter would have it.

        Args:
            loss: The loss, as a share of 1 if the metric is one.
        """
        places = 3 if self.in_points else self._places(1)
        steps = 10.0**places
        # Rounded first, since 0.013 * 1000 may come to slightly less than 13.
        return round((math.floor(round(loss * steps, 6)) + 1) / steps, places)

    def fine_digits(self, *ends: float | None) -> int:
        """Returns 1, or 2 if an end of an interval would round to 0, which would hide its side of 0.

        Args:
            *ends: Ends of the interval; None counts as 0.
        """
        least = 0.0005 if self.in_points else 0.5 * 10.0 ** -self._places(1)
        return 1 if min(abs(end or 0.0) for end in ends) >= least else 2

    def ask_for_seeds(self, seeds: tuple[int, int]) -> str:
        """Returns a sentence for an interval that is of no use for lack of seeds.

        Args:
            seeds: Number of seeds of both arms.
        """
        return f"{min(seeds)} seeds are too few for a useful interval of {self.label}: raise retrain.seeds."

    def content(self) -> dict[str, Any]:
        """Returns the fields for JSON."""
        return asdict(self)

    def _places(self, digits: int) -> int:
        # The decimals of a margin, and one more per digit: for 1 digit, .01 gives three places, 50 none.
        return max(0, math.ceil(-math.log10(self.margin)) + digits)


ACCURACY_WORDS = MetricWords("accuracy", "accuracy", "accuracy", 0.01, in_points=True)
ATTENTION_WORDS = MetricWords(AUROC_NAME, "attention_auroc", "AUROC of attention", 0.01)
"""AUROC of attention, by which arms are compared beside the metric where there are masks."""


def accuracy_words(params: Params) -> MetricWords:
    """Returns accuracy in words, with `evaluate.margin` if `evaluate.metric` is accuracy.

    Args:
        params: All parameters.
    """
    given = params.evaluate.margin if params.evaluate.metric == ACCURACY_WORDS.name else None
    return ACCURACY_WORDS if given is None else replace(ACCURACY_WORDS, margin=given)


def words_of(metric: MetricWords | None, margin: float | None = None) -> MetricWords:
    """Returns the words that results record for their metric; accuracy for results of an earlier version.

    Args:
        metric: The recorded words; None in results of an earlier version.
        margin: Margin recorded by an earlier version; None: accuracy's own.
    """
    if metric is not None:
        return metric
    return ACCURACY_WORDS if margin is None else replace(ACCURACY_WORDS, margin=margin)
