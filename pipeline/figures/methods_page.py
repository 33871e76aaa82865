"""The page of a comparison of methods: one HTML file, as the report is (`pipeline.figures.report`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from pipeline.figures.report import Words, page_environment
from pipeline.score.metrics.wording import MetricWords


@dataclass(frozen=True)
class ComparisonPage:
    """What the page says.

    answer           sentences on what helps
    rows             the control first, then the methods, then the probe if there is one: method, control (bool),
                     setting, seeds, value, difference (None of the control and the probe, which lack low to shown),
                     low, high (None without an interval), p, shown, auroc (None without masks), attention (difference,
                     low, high, p; or None), epochs (None without a search), seconds, report (its address)
    difference, attention_difference
                     figures of `figures.curves.difference_figure`; the latter None without masks
    how              sentences on the family and the control
    cost, again      (name, words) pairs
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
    """Return the page as HTML. A row without one of its keys raises `jinja2.UndefinedError`, naming it."""
    return page_environment().get_template("methods_page.html.j2").render(data=data)
