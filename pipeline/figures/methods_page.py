"""Page of a comparison of methods: one HTML file, like the report (`pipeline.figures.report`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from pipeline.figures.report import Words, page_environment
from pipeline.score.metrics.wording import MetricWords


@dataclass(frozen=True)
class ComparisonPage:
    """Content of the page.

    Attributes:
        title: the heading.
        answer: sentences on which methods help.
        metric: the metric in words.
        rows: the control, the methods, then the probe and the Gaussian in the centre if there are such. Keys: method,
            control (bool), setting, seeds, value (None for the Gaussian, which has an AUROC alone), difference (None
            for all rows but those of methods; these rows lack low, high, p and shown),
            low, high (None without an interval), p, shown, auroc (None without masks), attention (difference,
            low, high and p, or None), epochs (None without a search), seconds, report (its address).
        difference: figure from `figures.curves.difference_figure`.
        attention_difference: the same of attention; None without masks.
        how: sentences on the family and the control.
        cost: (name, words) pairs on the cost.
        again: (name, words) pairs on how to reproduce the results.
    """

    title: str
    answer: Sequence[str]
    metric: MetricWords
    rows: Sequence[Mapping[str, Any]]
    difference: Figure
    attention_difference: Figure | None
    how: Sequence[str]
    cost: Words
    again: Words


def render_comparison(data: ComparisonPage) -> str:
    """Renders the page as HTML. A row without one of its keys raises `jinja2.UndefinedError`, which names the key.

    Args:
        data: the content.
    """
    return page_environment().get_template("methods_page.html.j2").render(data=data)
