"""Table and page of a comparison of methods: a row for the control and for every method."""

from collections.abc import Iterator

from pipeline.compared.compared_results import (
    ComparedResults,
    SearchCost,
    describe_answer,
    describe_family,
    seeds_of,
    warn_of_looks,
)
from pipeline.config import Params
from pipeline.console.format import LEFT, RIGHT, format_duration, format_table, wrap_text
from pipeline.figures.curves import difference_figure
from pipeline.figures.methods_page import ComparisonPage
from pipeline.figures.report import Row
from pipeline.provenance.trace import versions
from pipeline.score.family import Member
from pipeline.score.metrics.wording import ATTENTION_WORDS, MetricWords

COLUMNS = {
    "method": LEFT,
    "seeds": RIGHT,
    "accuracy": RIGHT,
    "difference": RIGHT,
    "p (Holm)": RIGHT,
    "shown": LEFT,
}
ATTENTION_COLUMNS = {"method": LEFT, "AUROC of attention": RIGHT, "difference": RIGHT, "p (Holm)": RIGHT}
UNCOMPARED: Row = {"difference": None, "attention": None}
"""Cells of rows that are not compared with the control: the control's own row, the probe's and the baseline's."""
SEARCH_COLUMNS = {"method": LEFT, "epochs": RIGHT, "search": RIGHT, "configuration": LEFT}


def result_rows(found: ComparedResults) -> list[Row]:
    """Returns the rows of a comparison, as the page takes them: the control's, the methods', and the probe's if any.

    Args:
        found: the results of the comparison.
    """
    first = found.methods[0]
    control: Row = {
        "method": f"control: {found.control}",
        "control": True,
        "setting": found.configuration,
        "seeds": str(first.member.comparison.seeds[1]),
        "value": first.member.comparison.control_mean,
        **UNCOMPARED,
        "auroc": None if first.attention is None else first.attention.comparison.control_mean,
        **_cost(found.cost),
        "report": "",
    }
    rows: list[Row] = [control]
    for method in found.methods:
        comparison, attention = method.member.comparison, method.attention
        rows.append(
            {
                "method": method.name,
                "control": False,
                "setting": f"{method.configuration}{' (of all images)' * bool(found.folds)}",
                "seeds": seeds_of(method.member),
                "value": comparison.best_mean,
                **_compared(method.member),
                "shown": found.outcome(method.member),
                "auroc": None if attention is None else attention.comparison.best_mean,
                "attention": None if attention is None else _compared(attention),
                **_cost(method.cost),
                "report": f"{method.name}/report/index.html",
            }
        )
    if found.probe is not None:
        probe = {"method": "probe (frozen features)", "control": False, "setting": found.probe.configuration}
        rows.append(
            {**probe, **UNCOMPARED}
            | {"seeds": "", "value": found.probe.value, "auroc": None, **_cost(None), "report": ""}
        )
    if found.centred is not None:
        centre = {"method": "Gaussian in the centre", "control": False, "setting": "", "seeds": "", "value": None}
        rows.append({**centre, **UNCOMPARED, "auroc": found.centred, **_cost(None), "report": ""})
    return rows


def _compared(member: Member) -> Row:
    found = member.comparison
    return {"difference": found.difference, "low": found.low, "high": found.high, "p": member.p_holm}


def _cost(cost: SearchCost | None) -> dict[str, float | None]:
    return {"epochs": None, "seconds": None} if cost is None else {"epochs": cost.epochs, "seconds": 3600 * cost.hours}


def describe_compared(found: ComparedResults, rows: list[Row]) -> Iterator[str]:
    """Yields the answer, the table and the notes of a comparison in lines.

    Args:
        found: the results of the comparison.
        rows: its rows, from `result_rows`.
    """
    words = found.words
    if warning := warn_of_looks(found):
        yield wrap_text(warning)
    yield wrap_text(" ".join(describe_answer(found)))
    yield ""
    masks = rows[0]["auroc"] is not None
    # Three narrow tables: one with all columns would be wider than most terminals.
    yield from _metric_table(rows, words)
    yield ""
    if masks:
        yield from _attention_table(rows)
        yield ""
    yield from _search_table(rows)
    yield ""
    units = " in %, differences in points" if words.in_points else ""
    yield wrap_text(f"{words.title}{units}.")
    yield wrap_text(" ".join(describe_family(found)))
    if found.probe is not None:
        yield wrap_text(found.probe.said)


def _metric_table(rows: list[Row], words: MetricWords) -> Iterator[str]:
    """Yields the table of the metric in lines."""
    columns = {words.label if name == "accuracy" else name: side for name, side in COLUMNS.items()}
    table = []
    for row in rows:
        if row["value"] is None:  # a baseline of attention
            continue
        cells = [row["method"], row["seeds"], words.format_value(row["value"], 2).removesuffix(" %")]
        if row["difference"] is None:
            cells += ["", "", ""]
        else:
            ends = [words.format_difference(row[end] or 0.0, 2, unit=False) for end in ("difference", "low", "high")]
            cells += [_interval(ends, row["low"]), _p(row["p"]), row["shown"]]
        table.append(cells)
    yield from format_table(columns, table, gives_way="method")


def _attention_table(rows: list[Row]) -> Iterator[str]:
    """Yields the table of attention in lines."""
    table = []
    for row in rows:
        if row["auroc"] is None:
            continue
        cells = [row["method"], f"{row['auroc']:.3f}", "", ""]
        if (area := row["attention"]) is not None:
            ends = [f"{area[end] or 0.0:+.3f}" for end in ("difference", "low", "high")]
            cells[2:] = [_interval(ends, area["low"]), _p(area["p"])]
        table.append(cells)
    yield from format_table(ATTENTION_COLUMNS, table, gives_way="method")


def _search_table(rows: list[Row]) -> Iterator[str]:
    """Yields the table of the searches and of the configurations that they chose, in lines."""
    table = []
    for row in rows:
        cost = ["", ""] if row["epochs"] is None else [f"{row['epochs']:,}", format_duration(row["seconds"])]
        if row["setting"]:
            table.append([row["method"], *cost, row["setting"]])
    yield from format_table(SEARCH_COLUMNS, table, gives_way="configuration")


def _interval(ends: list[str], low: float | None) -> str:
    """Returns a difference with its interval.

    Args:
        ends: difference, lower and upper end, formatted.
        low: the lower end, or None without an interval.
    """
    return ends[0] if low is None else f"{ends[0]} ({ends[1]} to {ends[2]})"


def _p(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def comparison_page(params: Params, found: ComparedResults, rows: list[Row], given: str) -> ComparisonPage:
    """Returns the content of a comparison's page.

    Args:
        params: the parameters.
        found: the results of the comparison.
        rows: its rows, from `result_rows`.
        given: argument of `--run`.
    """
    compared = [row for row in rows if row["difference"] is not None]
    attention = [(row["method"], row["attention"]) for row in compared if row["attention"] is not None]
    warning, names = warn_of_looks(found), ", ".join(row["method"] for row in compared)
    searched = [row["seconds"] for row in rows if row["seconds"] is not None]
    return ComparisonPage(
        title=f"{params.set_name}: which method helps? {names}",
        answer=[*([warning] if warning else []), *describe_answer(found)],
        metric=found.words,
        rows=rows,
        difference=difference_figure(
            [(row["method"], row["difference"], row["low"], row["high"]) for row in compared],
            margin=found.words.margin,
            words=found.words,
            confidence=found.confidence,
        ),
        attention_difference=difference_figure(
            [(name, each["difference"], each["low"], each["high"]) for name, each in attention],
            words=ATTENTION_WORDS,
            confidence=found.confidence,
        )
        if attention
        else None,
        how=[*describe_family(found), *([found.probe.said] if found.probe is not None else [])],
        cost=[
            ("all searches", f"{format_duration(sum(searched))} by the clock, one after the other"),
            ("retraining", "every method with the same seeds, the control once; in each method's own report"),
        ],
        again=[
            ("command", f"sar-search compare --run {given}"),
            ("searches", ", ".join(f"{method.name} {method.fingerprint[:8]}" for method in found.methods)),
            ("data", found.data_hash[:16]),
            ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ],
    )
