"""Claims about what the search writes: every value that a space allows comes back, through every file."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulated_search import SPACE, WEIGHT

from pipeline.artifacts.best_config import BestConfig
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import METHOD, TrialRecord, read_history
from pipeline.tune.selection.result_files import _write_csv
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.warm_start import results_from_csv
from pipeline.tune.table_cells import format_cell, parse_cell

NASTY = ["on", "off", "yes", "no", "null", "~", "true", "True", "None", "1e3", "007", "0x1f", "0o7", "1_000", "1:30"]
NASTY += [
    ".5",
    "=1+1",
    "a,b",
    'a "b"',
    "a\nb",
    "a\r\nb",
    " a ",
    "- a",
    "a: b",
    "#a",
    "{a}",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
]
NASTY += ["2026-01-01", "<<", "=", "ü", "日本", "😀", "a\tb", "nan", ".inf", "-", "'", "|", ">", "?", "\u2028", "\x85"]
TEXT = st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.lists(st.integers(0, 99), max_size=3)
)
VALUE = PLAIN | st.dictionaries(TEXT, PLAIN, max_size=3)
CHOICES = st.lists(VALUE, min_size=1, max_size=5, unique_by=lambda value: json.dumps(value, sort_keys=True))


def same(found: Any, expected: Any) -> bool:
    return type(found) is type(expected) and json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def through_csv(folder: Path, cells: list[Any]) -> list[str]:
    _write_csv(folder / "t.csv", [{"before": 1, "value": cell, "after": 2} for cell in cells])
    with (folder / "t.csv").open(newline="", encoding="utf-8") as file:
        return [row["value"] for row in csv.DictReader(file)]


@settings(max_examples=150, deadline=None)
@given(choices=CHOICES)
def test_choices_come_back_from_a_table(tmp_path_factory: pytest.TempPathFactory, choices: list[Any]) -> None:
    spec = {"type": "categorical", "choices": choices}
    folder = tmp_path_factory.getbasetemp()
    for choice, text in zip(
        choices, through_csv(folder, [format_cell(choice, spec) for choice in choices]), strict=True
    ):
        assert same(parse_cell(text, spec), choice)


@settings(max_examples=100, deadline=None)
@given(value=st.floats(allow_nan=False, allow_infinity=False), whole=st.integers(-(10**18), 10**18))
def test_numbers_come_back_from_a_table(tmp_path_factory: pytest.TempPathFactory, value: float, whole: int) -> None:
    texts = through_csv(tmp_path_factory.getbasetemp(), [format_cell(value), format_cell(whole), float(whole % 1000)])
    assert same(parse_cell(texts[0], {"type": "float"}), value)
    assert same(parse_cell(texts[1], {"type": "int"}), whole)
    assert same(parse_cell(texts[1], {"type": "float"}), float(whole))
    assert same(parse_cell(texts[2], {"type": "int"}), whole % 1000)


@settings(max_examples=150, deadline=None)
@given(values=st.dictionaries(st.sampled_from(["model.name", "train.lr", "model.kwargs"]), VALUE, min_size=1))
def test_settings_come_back_from_best_yaml_and_from_the_ledger(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    BestConfig(fingerprint="f", trial="t0001", best=values, controls={"baseline": values}).write(folder)
    best = BestConfig.read(folder)
    assert same(best.best, values)
    assert same(best.controls, {"baseline": values})
    journal = folder / "journal.jsonl"
    journal.unlink(missing_ok=True)
    with Journal(journal, {}) as opened:
        opened.start(TrialRecord("t0000", 0, values, study=METHOD))
    assert same(dict(read_history(journal).trials["t0000"].values), values)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_table_of_a_spreadsheet_is_known(tmp_path: Path, separator: str, encoding: str) -> None:
    flip = {"train.flip": {"type": "categorical", "choices": [True, False]}}
    of = SearchSpace("space.yaml", {**SPACE.dimensions, **flip}, {})
    point = "." if separator == "," else ","
    rows = [
        [WEIGHT, "val/accuracy", "train.flip"],
        [f"0{point}25", f"0{point}5", "TRUE"],
        ["1", f"5{point}0E-1", "FALSE"],
    ]
    (tmp_path / "t.csv").write_bytes("\r\n".join(separator.join(row) for row in rows).encode(encoding))
    known = results_from_csv(tmp_path / "t.csv", Params(), of, where="here")
    assert [each["values"] for each in known] == [
        {WEIGHT: 0.25, "train.flip": True},
        {WEIGHT: 1.0, "train.flip": False},
    ]
    assert [each["curve"][-1][1] for each in known] == [0.5, 0.5]


def test_decimal_comma_in_a_table_whose_commas_separate_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f'{WEIGHT},val/accuracy\n"0,25","0,5"\n')
    with pytest.raises(UserError) as refused:
        results_from_csv(tmp_path / "t.csv", Params(), SPACE, where="here")
    assert f"{WEIGHT}: given '0,25' (a decimal comma; write 0.25, with a point)" in str(refused.value)
    assert "val/accuracy: given '0,5' (a decimal comma; write 0.5, with a point)" in str(refused.value)
