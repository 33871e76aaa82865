"""The page of several methods: everything that is compared is on it, and nothing is fetched from anywhere."""

import re
from typing import Any

import pytest
from jinja2 import UndefinedError

from pipeline.figures.curves import difference_figure
from pipeline.figures.methods_page import ComparisonPage, render_comparison
from pipeline.score.metrics.metric import METRICS
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords


def page(words: MetricWords = ACCURACY_WORDS, *, masks: bool = True, interval: bool = True, leave_out: str = "") -> str:
    control: dict[str, Any] = {"method": "control: baseline", "control": True, "setting": "lr=0.002", "seeds": "5"}
    control |= {"value": 0.9, "auroc": 0.6 if masks else None, "epochs": None, "seconds": None, "report": ""}
    control |= {"difference": None, "attention": None}
    probe = control | {"method": "probe", "control": False, "value": 0.777, "auroc": None, "seeds": ""}
    centre = probe | {"method": "Gaussian in the centre", "value": None, "auroc": 0.852}
    low, high = (-0.004, 0.031) if interval else (None, None)
    area = {"difference": 0.21, "low": 0.15, "high": 0.27, "p": 0.0004} if masks else None
    row = control | {"method": "s<a>r", "control": False, "value": 0.913, "difference": 0.013, "low": low, "high": high}
    row |= {"p": 0.21 if interval else None, "shown": "not enough data", "attention": area, "epochs": 1160}
    row |= {"auroc": 0.81 if masks else None, "seconds": 7380.0, "report": "sar/report/index.html"}
    row.pop(leave_out, None)
    figure = difference_figure([("sar", 0.013, low, high)], margin=words.margin, words=words)
    return render_comparison(
        ComparisonPage(
            title="digits: which method helps?",
            answer=["No method is shown to raise accuracy."],
            metric=words,
            rows=[control, row, probe, *([centre] if masks else [])],
            difference=figure,
            attention_difference=figure if masks else None,
            how=["One family of 2 comparisons."],
            cost=[("all searches", "2 h 3 min")],
            again=[("command", "sar-search compare --run sar")],
        )
    )


def test_the_page_has_answer_table_figures_and_cost_and_needs_nothing_else() -> None:
    text = page()
    for said in (
        "No method is shown to raise accuracy.",
        "s&lt;a&gt;r",
        '<a href="sar/report/index.html">',
        "91.30 %",
        "77.70 %",
        "-0.40 to +3.10",
        "+0.210",
        "1,160",
        "2 h 3 min",
        "One family of 2 comparisons.",
    ):
        assert said in text, said
    assert text.count("Gaussian in the centre</th>") == 1  # in the table of attention, not in that of accuracy
    assert "0.852" in text
    assert text.count('src="data:image/png') == 2
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)


def test_without_masks_or_an_interval_there_is_no_attention_and_no_interval() -> None:
    text = page(masks=False, interval=False)
    assert "AUROC" not in text
    assert 'class="quiet interval"' not in text
    assert text.count('src="data:image/png') == 1


def test_another_metric_has_its_own_units() -> None:
    text = page(METRICS["log_loss"].words)
    assert "log loss" in text
    assert "(points)" not in text


def test_a_row_without_a_key_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="shown"):
        page(leave_out="shown")
