"""Claims about what a search knows beforehand, and about the settings that its user wants first."""

import csv
from pathlib import Path
from typing import Any

import pytest
from support.simulated_search import LR, SPACE, WEIGHT, WIDE, Search, told

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import COMPLETE, CONTROL, FAILED, METHOD, PRUNED, SearchHistory, TrialRecord
from pipeline.tune.objectives.objectives import objectives_from_params
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.warm_start import as_trials, check_points, results_from_csv, results_from_search

WORDS = SearchSpace(
    "words.yaml",
    {
        **SPACE.dimensions,
        "regularizer.spatial_entropy.layers": {"type": "categorical", "choices": ["last", [0, 1]]},
        "train.batch_size": {"type": "int", "low": 8, "high": 64},
    },
    {},
)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def params(**settings: Any) -> Params:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return Params().with_values({"train.epochs": 4} | dotted, where="the test")


def earlier(folder: Path, space: SearchSpace = WIDE, *, weight: float = 0.1, epochs: int = 4) -> SearchHistory:
    """A search of two completed trials, one stopped, one failed, one open, and a control."""
    header = {"content": {"space": space.content(), "train": {"epochs": epochs}}}
    with Journal(folder / "journal.jsonl", header) as journal:
        journal.start(TrialRecord("baseline", None, {WEIGHT: 0.0}, role=CONTROL))
        states = [COMPLETE, PRUNED, COMPLETE, FAILED, None]
        for number, state in enumerate(states):
            name = f"t{number:04d}"
            journal.start(TrialRecord(name, number, {WEIGHT: weight, LR: 0.01 * (number + 1)}, study=METHOD))
            for epoch in range(1, 3 if state == PRUNED else 5):
                journal.report(name, epoch, {"val/accuracy": 0.1 * epoch + 0.01 * number})
            if state is not None:
                journal.end(name, state)
        return journal.history


def test_ended_trials_of_an_earlier_search_are_known_with_their_curves(tmp_path: Path) -> None:
    known = results_from_search(earlier(tmp_path), params(), WIDE, where="here")
    assert [each["state"] for each in known] == [COMPLETE, PRUNED, COMPLETE]
    assert [each["values"][LR] for each in known] == [0.01, 0.02, 0.03]
    assert known[1]["curve"] == [[1, 0.11], [2, pytest.approx(0.21)]]
    first, second, _ = as_trials(known, WIDE)
    assert first.value == pytest.approx(0.4)
    assert second.value is None
    assert second.intermediate_values == pytest.approx({1: 0.11, 2: 0.21})


def refusal(work: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as refused:
        work(*arguments, **named)
    return str(refused.value)


def test_search_of_another_space_is_refused_by_the_parameter(tmp_path: Path) -> None:
    history = earlier(tmp_path)
    assert (
        refusal(results_from_search, history, params(), SPACE, where="here")
        == f"here: it varied {LR}, which space.yaml does not"
    )
    said = refusal(results_from_search, history, params(), WORDS, where="here").splitlines()
    assert said[1:] == [
        "here: it did not vary regularizer.spatial_entropy.layers, which words.yaml does",
        "here: it did not vary train.batch_size, which words.yaml does",
    ]


def test_search_of_other_epochs_or_outside_of_the_ranges_is_refused(tmp_path: Path) -> None:
    said = refusal(results_from_search, earlier(tmp_path), params(train__epochs=5), WIDE, where="here")
    assert said == (
        "here: its trials have 4 epochs, but train.epochs is 5; leave search.warm_start at null, or name a search with as "
        "many epochs."
    )
    outside = earlier(tmp_path / "2", weight=2.0)
    said = refusal(results_from_search, outside, params(), WIDE, where="here")
    assert (
        said == f"here: none of its 3 trials lies within space.yaml: {WEIGHT}: given 2.0; space.yaml allows 0.003 to 1"
    )


def test_search_without_results_is_refused(tmp_path: Path) -> None:
    header = {"content": {"space": WIDE.content(), "train": {"epochs": 4}}}
    with Journal(tmp_path / "journal.jsonl", header) as journal:
        assert "nothing to learn from" in refusal(results_from_search, journal.history, params(), WIDE, where="here")


def written(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


ROW = {WEIGHT: 0.1, "regularizer.spatial_entropy.layers": [0, 1], "train.batch_size": 16, "val/accuracy": 0.8}


def test_rows_of_a_table_are_known_as_completed_trials(tmp_path: Path) -> None:
    rows = [ROW, ROW | {WEIGHT: 1, "regularizer.spatial_entropy.layers": "last", "val/accuracy": "1e-1"}]
    known = results_from_csv(written(tmp_path / "t.csv", *rows), params(), WORDS, where="t.csv")
    assert [each["values"] for each in known] == [
        {WEIGHT: 0.1, "regularizer.spatial_entropy.layers": [0, 1], "train.batch_size": 16},
        {WEIGHT: 1.0, "regularizer.spatial_entropy.layers": "last", "train.batch_size": 16},
    ]
    assert [trial.value for trial in as_trials(known, WORDS)] == [0.8, 0.1]


def test_of_a_searchs_own_table_completed_trials_are_known(tmp_path: Path) -> None:
    rows = [
        {"role": "control", "state": "complete", **ROW, WEIGHT: 0.0},
        {"role": "trial", "state": "complete", **ROW},
        {"role": "trial", "state": "pruned", **ROW, "val/accuracy": 0.1},
        {"role": "confirmation", "state": "complete", **ROW},
    ]
    assert len(results_from_csv(written(tmp_path / "t.csv", *rows), params(), WORDS, where="t.csv")) == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train.batch_size": 7}, "t.csv: line 3: train.batch_size: given 7; words.yaml allows 8 to 64"),
        ({"train.batch_size": "many"}, 't.csv: line 3: train.batch_size: given "many"; words.yaml allows 8 to 64'),
        ({"train.batch_size": ""}, "t.csv: line 3: train.batch_size: given null; words.yaml allows 8 to 64"),
        (
            {"regularizer.spatial_entropy.layers": "all"},
            't.csv: line 3: regularizer.spatial_entropy.layers: given "all"; words.yaml allows last, [0, 1]',
        ),
        ({"val/accuracy": "good"}, "t.csv: line 3: val/accuracy: given 'good'; needed: a number"),
        ({"val/accuracy": "nan"}, "t.csv: line 3: val/accuracy: given 'nan'; needed: a number"),
    ],
)
def test_row_that_is_not_of_the_space_is_refused_by_line_and_parameter(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    path = written(tmp_path / "t.csv", ROW, ROW | changed)
    found = refusal(results_from_csv, path, params(), WORDS, where="t.csv")
    assert found.replace('"', "'") == said.replace('"', "'")


def test_a_table_that_a_spreadsheet_saved_is_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ROW)
    plain = results_from_csv(path, params(), WORDS, where="t.csv")
    with path.open(newline="", encoding="utf-8") as file:
        lines = [[cell.replace(".", ",") if cell[:1].isdigit() else cell for cell in row] for row in csv.reader(file)]
    with path.open("w", newline="", encoding="utf-16") as file:
        csv.writer(file, delimiter=";").writerows(lines)
    assert results_from_csv(path, params(), WORDS, where="t.csv") == plain


def test_table_that_lacks_a_column_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", {key: value for key, value in ROW.items() if key != WEIGHT})
    assert refusal(results_from_csv, path, params(), WORDS, where="t.csv").startswith(
        f"t.csv: no column {WEIGHT}; needed"
    )
    assert "cannot be read" in refusal(results_from_csv, tmp_path / "none.csv", params(), WORDS, where="none.csv")
    (tmp_path / "empty.csv").write_text("")
    assert "it is empty" in refusal(results_from_csv, tmp_path / "empty.csv", params(), WORDS, where="empty.csv")


def test_point_outside_of_the_space_is_refused_by_its_name() -> None:
    points = {"mine": {WEIGHT: 2.0}, "other": {"train.lrr": 0.1}, "fine": {WEIGHT: 0.5, LR: 0.1}}
    said = refusal(check_points, params(search__points=points), WIDE).splitlines()
    assert said == [
        f"params.yaml: search.points.mine: {WEIGHT}: given 2.0; space.yaml allows 0.003 to 1",
        f"params.yaml: search.points.other: train.lrr: no dimension of space.yaml; its dimensions: {WEIGHT}, {LR}",
    ]


def begun(folder: Path, known: Any, **settings: Any) -> Search:
    """A search whose journal begins with what it knows, as the runner makes it."""
    with Journal(folder / "journal.jsonl", {"known": known}):
        pass
    return Search(folder, settings, WIDE)


def test_search_learns_from_what_its_ledger_begins_with_however_often_it_is_broken_off(tmp_path: Path) -> None:
    known = results_from_search(earlier(tmp_path / "earlier"), params(), WIDE, where="here")
    settings = {"search.trials": 5, "search.sampler.startup_trials": 3}
    warm = begun(tmp_path / "warm", known, **settings)
    warm.run()
    cold = Search(tmp_path / "cold", settings, WIDE)
    cold.run()
    assert [r.values for r in warm.outcome if r.study] != [r.values for r in cold.outcome if r.study]
    assert len([r for r in warm.outcome if r.study]) == 5
    broken = begun(tmp_path / "broken", known, **settings)
    broken.killed(kill_at=7)
    broken.killed(kill_at=5)
    broken.run()
    assert told(broken.outcome) == told(warm.outcome)


def test_points_are_the_first_trials_of_the_search(tmp_path: Path) -> None:
    points = {"mine": {WEIGHT: 0.2, LR: 0.02}, "half": {LR: 0.3}}
    search = Search(tmp_path, {"search.points": points}, WIDE)
    search.killed(kill_at=6)
    search.run()
    tried = [record.values for record in search.outcome if record.study == METHOD]
    assert tried[0] == points["mine"]
    assert tried[1][LR] == 0.3
    assert len(tried) == 4


GOALS = {
    "search__objectives": ["val/accuracy", "latency_ms"],
    "search__scheduler__name": "none",
    "search__constraints__max_parameters": 100.0,
}


def test_rows_of_a_table_have_the_other_objectives_and_what_constraints_bound(tmp_path: Path) -> None:
    rows = [ROW | {"latency_ms": 2.0, "parameters": 150}, ROW | {"latency_ms": 3.0, "parameters": ""}]
    asked = params(**GOALS)
    known = results_from_csv(written(tmp_path / "t.csv", *rows), asked, WORDS, where="t.csv")
    assert [each["metrics"] for each in known] == [{"latency_ms": 2.0, "parameters": 150.0}, {"latency_ms": 3.0}]
    first, second = as_trials(known, WORDS, objectives_from_params(asked))
    assert (first.values, second.values) == ([0.8, 2.0], [0.8, 3.0])
    assert first.constraints == {"parameters": 0.5}
    assert second.constraints == {}


def test_table_without_a_column_or_a_value_for_every_objective_is_refused(tmp_path: Path) -> None:
    asked = params(**GOALS)
    said = refusal(results_from_csv, written(tmp_path / "t.csv", ROW), asked, WORDS, where="t.csv")
    assert said == (
        "t.csv: no column latency_ms; needed: one for each parameter of words.yaml, and val/accuracy, latency_ms."
    )
    said = refusal(
        results_from_csv, written(tmp_path / "u.csv", ROW | {"latency_ms": "fast"}), asked, WORDS, where="u.csv"
    )
    assert said.replace('"', "'") == "u.csv: line 2: latency_ms: given 'fast'; needed: a number"


def test_search_without_one_of_the_objectives_is_refused_and_one_with_them_gives_what_ran_in_full(
    tmp_path: Path,
) -> None:
    history, asked = earlier(tmp_path), params(**GOALS)
    said = refusal(results_from_search, history, asked, WIDE, where="here")
    assert said.startswith("here: its trials have no latency_ms, which search.objectives names; ")
    for number, trial in enumerate(history.trials.values()):
        trial.measured = {"latency_ms": 1.0 + number, "parameters": 50.0}
    trials = as_trials(results_from_search(history, asked, WIDE, where="here"), WIDE, objectives_from_params(asked))
    assert [trial.values for trial in trials] == [[pytest.approx(0.4), 2.0], [pytest.approx(0.42), 4.0]]
    assert [trial.constraints for trial in trials] == [{"parameters": -0.5}] * 2
    assert not any(trial.intermediate_values for trial in trials)


def test_point_that_is_another_one_once_more_is_refused_by_both_names() -> None:
    points = {"a": {LR: 0.01, WEIGHT: 0.1}, "b": {WEIGHT: 0.1}, "c": {WEIGHT: 0.1}, "d": {WEIGHT: 0.1, LR: 0.01}}
    with pytest.raises(UserError) as refused:
        check_points(params(search__points=points), WIDE)
    assert str(refused.value) == "params.yaml: search.points.d: the same configuration as a; leave one out"
