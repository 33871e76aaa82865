"""Claims about the report: complete, self-contained, safe against odd names, and open about what is missing."""

import base64
import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import jinja2
import numpy as np
import pytest

from pipeline.figures.attention import comparison_figure
from pipeline.figures.curves import (
    confusion_figure,
    difference_figure,
    learning_curves,
    objective_by_trial,
    reliability_figure,
)
from pipeline.figures.report import ReportData, render_report, shown_trials
from pipeline.figures.search import survival_figure
from pipeline.score.metrics.metric import LOG_LOSS

VOID = {"meta", "img", "br"}
UNCOMPARED = dict.fromkeys(("change", "low", "high", "p"))
UNCHANGED = dict.fromkeys(("difference", "low", "high"))


class Page(HTMLParser):
    """Reads a page: the tags left open, the text of each section, the rows of its tables, every attribute's value."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.section = "head"
        self.text: dict[str, str] = {}
        self.rows: dict[str, int] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag == "tr":
            self.rows[self.section] = self.rows.get(self.section, -1) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self.section] = self.text.get(self.section, "") + data


def trial(number: int, accuracy: float | None, *, control: bool = False, state: str = "complete") -> dict[str, Any]:
    return {
        "trial": "baseline" if control else f"t{number:04}",
        "state": state,
        "epochs": 16,
        "value": accuracy,
        "parameters": {"regularizer.spatial_entropy.weight": 0.123456789, "regularizer.spatial_entropy.layers": "last"},
        "control": control,
    }


def bare_report(**changes: Any) -> ReportData:
    """A report with everything in it that must be there, and nothing else."""
    values: dict[str, Any] = {
        "title": "Digits, spatial entropy",
        "verdict": "SAR raised test accuracy by 1.2 points.",
        "arms": [{"arm": "best", "seeds": 5, "accuracy": 0.9741, "accuracy_sd": 0.0052, "nll": 0.1234, "ece": 0.0213}],
        "look": 1,
        "trials": [trial(0, 0.95)],
        "commit": "0123abcd",
        "data_hash": "da7a",
        "fingerprint": "f1f1",
        "command": "make repro",
        "versions": {"torch": "2.11.0"},
        "seconds": 4980.0,
    }
    return ReportData(**(values | changes))


def full_report() -> ReportData:
    """A report with every section filled with made-up numbers."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(3, 12, 12, 1)).astype(np.uint8)
    maps = {arm: rng.normal(size=(3, 4, 6, 6)) for arm in ("best", "control")}
    trials = [trial(0, 0.955, control=True)]
    for number in range(60):
        state = ("complete", "pruned", "failed")[number % 3]
        trials.append(trial(number, None if state == "failed" else 0.8 + 0.15 * rng.random(), state=state))
    epochs = np.arange(1, 17)
    curves = {
        arm: (epochs, 0.97 - gap - 0.6 * np.exp(-epochs / 3) + 0.01 * rng.normal(size=(5, 16)))
        for arm, gap in (("best", 0.0), ("control", 0.02))
    }
    arm = {"seeds": 5, "accuracy_sd": 0.0052, "nll": 0.1234, "ece": 0.0213}
    places = [("best", 0.52), ("control", 0.44), ("random", 0.39), ("centre", 0.54), ("all on", 0.51)]
    centres = (np.arange(15) + 0.5) / 15
    return bare_report(
        arms=[{"arm": "best", "accuracy": 0.9741} | arm, {"arm": "control", "accuracy": 0.962} | arm],
        look=3,
        trials=trials,
        remarks=("A paired t-test over seeds gives p = 0.03.",),
        difference=(
            "Difference with its 95 % interval.",
            difference_figure([("best", 0.012, 0.003, 0.021)], margin=0.01),
        ),
        pictures=[{"class": name, "images": {"train": 1234, "all": 1300}} for name in ("0", "all 10 classes")],
        pictures_about=[("broken files", "3 left out")],
        pictures_remarks=["20 groups stay whole"],
        attention=[
            {"row": row, "jaccard_best": value, "jaccard_fixed": value - 0.03, "auroc": 0.7, "average_precision": 0.6}
            | {"pointing_game": value + 0.2, "energy": 0.321}
            for row, value in places
        ],
        attention_changes=[{"difference": 0.1234, "low": -0.02, "high": 0.2668}] * 5 + [UNCHANGED],
        attention_note="12 images without an object are left out.",
        trials_figure=objective_by_trial(trials),
        learning_curves=learning_curves(curves),
        classes=[
            {"class": str(label), "images": 36, "best": 0.97, "control": 0.95, "change": 0.02}
            | {"low": -0.013, "high": 0.053, "p": 0.618}
            for label in range(9)
        ]
        + [{"class": "9", "images": 0, "best": None, "control": float("nan")} | UNCOMPARED],
        class_figure=("How much every class has changed.", difference_figure([("0", 0.02, -0.013, 0.053)])),
        analysis=[("primary", "difference of means"), ("family", "corrected by Holm")],
        search_figures=[("How many trials trained each epoch.", figure)] if (figure := survival_figure(trials)) else [],
        search_curves=learning_curves(curves),
        cost=[("search, by the clock", "1 h 2 min")],
        confusion=confusion_figure(np.eye(10, dtype=int) * 36, [str(label) for label in range(10)]),
        calibration=reliability_figure({"best": (centres, centres, np.arange(15))}),
        attention_figures=[("Best and control on three test images.", comparison_figure(images, maps))],
    )


@pytest.fixture(scope="module")
def full_html() -> str:
    return render_report(full_report())


def test_full_report_shows_every_number_and_figure(full_html: str) -> None:
    page = Page(full_html)
    assert page.open == []
    assert "SAR raised test accuracy by 1.2 points." in page.text["head"]
    assert "p = 0.03" in page.text["head"]
    for expected in ("97.4 %", "± 0.52", "0.123", "2.1 %", "This is look 3 at these test images"):
        assert expected in page.text["result"]
    assert page.rows["result"] == 2
    for expected in (
        "random",
        "centre",
        "all on",
        "0.540",
        "0.510",
        "0.700",
        "0.740",
        "0.321",
        "12 images without an object",
        "best minus control",
        "+0.123",
        "-0.02 to +0.27",
        "\N{EN DASH}",
    ):
        assert expected in " ".join(page.text["attention"].split())
    assert page.rows["attention"] == 6
    for expected in ("3 left out", "20 groups stay whole", "1,234", "all 10 classes"):
        assert expected in page.text["pictures"]
    assert "with the fewest pictures" not in page.text["pictures"]
    assert "Each test image counts once for each of the 5 seeds." in page.text["classes"]
    for expected in ("weight", "layers", "0.1235", "last"):
        assert expected in page.text["search"]
    assert page.rows["classes"] == 10
    assert page.text["classes"].count("\N{EN DASH}") == 2 + 3
    assert "-1.3 to +5.3" in page.text["classes"]
    assert "0.618" in page.text["classes"]
    assert "+2.0" in page.text["classes"]
    assert "corrected by Holm" in page.text["result"]
    assert "1 h 2 min" in page.text["cost"]
    for expected in ("make repro", "0123abcd", "da7a", "f1f1", "torch", "2.11.0", "1 h 23 min"):
        assert expected in page.text["reproduce"]
    assert sum(tag == "img" and name == "src" for tag, name, _ in page.attributes) == 9
    assert ("p", "class", "absent") not in page.attributes


def test_report_needs_nothing_from_elsewhere(full_html: str) -> None:
    page = Page(full_html)
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert len(sources) == 9
    assert all(re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", source) for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]+", "", full_html)
    assert "url(" not in full_html
    assert "@import" not in full_html


def test_every_figure_says_in_words_what_is_seen(full_html: str) -> None:
    page = Page(full_html)
    described = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(described) == 9
    assert all(len(text) > 20 for text in described)


def test_missing_parts_are_named_in_a_sentence() -> None:
    page = Page(render_report(bare_report(trials=[])))
    assert page.open == []
    assert "needs masks with both object and background" in page.text["attention"]
    assert "No attention pictures" in page.text["attention"]
    assert "no trials" in page.text["search"]
    assert "No learning curves" in page.text["training"]
    assert "No figures by class" in page.text["classes"]
    assert "No calibration figure" in page.text["calibration"]
    assert "No cost" in page.text["cost"]
    assert "Nothing was recorded about the pictures" in page.text["pictures"]
    assert not any(tag == "img" for tag, _, _ in page.attributes)


def test_each_section_opens_with_a_sentence(full_html: str) -> None:
    for html in (full_html, render_report(bare_report(trials=[]))):
        for section in re.findall(r"<section.*?</section>", html, flags=re.DOTALL):
            assert re.search(r"</h2>\s*<p[^>]*>\s*[A-Z][^<]*\.", section)


def test_names_cannot_break_out_of_the_page() -> None:
    evil = "<script>alert('x')</script>"
    row = trial(0, 0.9) | {"trial": evil, "parameters": {evil: evil}}
    picture = ('"><b>' + evil, difference_figure([("best", 0.0, -0.01, 0.01)]))
    classes = [{"class": evil, "images": 1, "best": 1.0, "control": 1.0} | UNCOMPARED]
    texts = {"title": evil, "verdict": evil, "command": evil, "analysis": [(evil, evil)], "cost": [(evil, evil)]}
    data = bare_report(**texts, trials=[row], attention_figures=[picture], classes=classes)
    html = render_report(data)
    assert "<script" not in html
    assert "<b>" not in html
    assert html.count("&lt;script&gt;") >= 12


def test_trials_are_sorted_and_counted_beyond_fifty() -> None:
    trials = [trial(number, 0.5 + number / 1000) for number in range(70)]
    page = Page(render_report(bare_report(trials=trials)))
    assert page.rows["search"] == 50
    assert "20 more trials are not shown" in page.text["search"]
    assert page.text["search"].index("t0069") < page.text["search"].index("t0068")
    assert "t0019" not in page.text["search"]
    assert "more trial" not in Page(render_report(bare_report(trials=trials[:50]))).text["search"]


def test_controls_are_always_shown_and_marked() -> None:
    trials = [trial(0, 0.1, control=True), *(trial(number, 0.5) for number in range(60))]
    shown = shown_trials(trials)
    assert len(shown) == 50
    assert shown[-1]["trial"] == "baseline"
    html = render_report(bare_report(trials=trials))
    assert len(re.findall(r'<tr class="control">', html)) == 1
    assert 'baseline <span class="tag">control</span>' in html


def test_trials_without_an_accuracy_come_last() -> None:
    shown = shown_trials([trial(0, None), trial(1, float("nan")), trial(2, 0.1), trial(3, 0.2)])
    assert [row["trial"] for row in shown] == ["t0003", "t0002", "t0000", "t0001"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.4, "took 12 s"), (61, "took 1 min"), (3599, "took 1 h 0 min"), (4980, "took 1 h 23 min")]
)
def test_time_is_written_for_people(seconds: float, words: str) -> None:
    assert words in render_report(bare_report(seconds=seconds))


def test_use_of_the_machine_is_a_table_without_a_gpus_columns_where_there_was_none() -> None:
    assert "Use of the machine" not in render_report(bare_report())
    row = {"part": "search", "cpu_busy": 0.981, "machine_cpu_busy": None, "data_wait": 0.0123, "memory_mb": 1812.4}
    on_cpu = Page(render_report(bare_report(usage=[row | {"gpu_busy": None, "gpu_memory_mb": None}]))).text["cost"]
    for words in ("98.1 %", "1.2 %", "1,812 MB"):
        assert words in on_cpu
    assert "GPU" not in on_cpu
    rows = [
        row | {"gpu_busy": 0.4, "gpu_memory_mb": 5000.0},
        row | {"part": "retraining", "gpu_busy": None, "gpu_memory_mb": None},
    ]
    on_gpu = Page(render_report(bare_report(usage=rows))).text["cost"]
    assert "40.0 %" in on_gpu
    assert "5,000 MB" in on_gpu
    assert "Other work." in Page(render_report(bare_report(usage=rows, usage_note="Other work."))).text["cost"]


def test_table_of_the_pictures_says_that_it_has_not_all_classes() -> None:
    rows = [{"class": str(number), "images": {"all": 2}} for number in range(21)]
    text = Page(render_report(bare_report(pictures=rows))).text["pictures"]
    assert "The 20 classes with the fewest pictures are shown." in text


def test_one_seed_has_no_deviation() -> None:
    arms = [{"arm": "best", "seeds": 1, "accuracy": 0.9, "accuracy_sd": None, "nll": 0.1, "ece": 0.02}]
    page = Page(render_report(bare_report(arms=arms)))
    assert "±" not in page.text["result"]
    drawn = confusion_figure(np.eye(2), ["a", "b"])
    assert "seeds" not in Page(render_report(bare_report(arms=arms, confusion=drawn))).text["classes"]
    assert "This is the first look at these test images" in page.text["result"]


def test_ensembles_are_rows_beside_the_arms_with_a_sentence() -> None:
    single = {"arm": "best", "seeds": 5, "accuracy": 0.9, "accuracy_sd": 0.01, "nll": 0.1, "ece": 0.02}
    together = {"arm": "best, ensemble", "seeds": 5, "accuracy": 0.925, "accuracy_sd": None, "nll": 0.09, "ece": 0.03}
    page = Page(render_report(bare_report(arms=[single, together], ensembles="These two ensembles differ by nothing.")))
    assert "92.5 %" in page.text["result"]
    assert "These two ensembles differ by nothing." in page.text["result"]
    assert "ensembles" not in Page(render_report(bare_report())).text["result"]


def test_a_further_look_is_said_with_what_it_costs() -> None:
    text = " ".join(Page(render_report(bare_report(look=2))).text["result"].split())
    assert "This is look 2 at these test images. Whoever looks several times" in text
    assert "finds differences that are none more often than the levels say." in text


def test_a_row_without_one_of_its_keys_is_an_error_that_names_it() -> None:
    row = {key: value for key, value in trial(0, 0.9).items() if key != "state"}
    with pytest.raises(jinja2.UndefinedError, match="state"):
        render_report(bare_report(trials=[row]))


def test_the_same_data_give_the_same_page(full_html: str) -> None:
    assert render_report(full_report()) == full_html
    pictures = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", full_html)]
    # Nor does the drawing library's version make them differ.
    assert not any(b"Software" in picture for picture in pictures)


def test_report_data_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        bare_report().title = "other"  # type: ignore[misc]


def test_another_metric_has_a_column_before_accuracy_and_names_the_section() -> None:
    arm = {"seeds": 5, "accuracy_sd": 0.0052, "nll": 0.1234, "ece": 0.0213, "accuracy": 0.9741, "arm": "best"}
    rows = [arm | {"metric": 0.3123, "metric_sd": 0.0044}, arm | {"metric": 0.29, "metric_sd": None}]
    html = render_report(bare_report(arms=rows, metric=LOG_LOSS.words))
    assert "<h2>Test log loss</h2>" in html
    assert html.index('<th class="number">log loss</th>') < html.index('<th class="number">test accuracy</th>')
    for text in ("0.312", "&plusmn; 0.0044", "0.290", "&ndash;"):
        assert text in html
    assert "log loss</th>" not in render_report(bare_report())
    assert "<h2>Test accuracy</h2>" in render_report(bare_report())


def test_probe_is_a_row_without_seeds_with_what_it_is_under_the_table() -> None:
    best, *_ = bare_report().arms
    row = {"arm": "probe", "seeds": None, "accuracy": 0.9, "accuracy_sd": None, "nll": 0.3, "ece": 0.1}
    page = render_report(bare_report(arms=[best, row], probe="The probe has no seeds."))
    assert '<tr><th scope="row">probe</th><td class="number">&ndash;</td>' in page
    assert "<p>The probe has no seeds.</p>" in page
    assert "None" not in page
