"""Claims about going on with a search that other code began: it is refused until its user says so."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.tune.journal.compatibility import changed_code, changed_content, check_same_code
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import SearchHistory, TrialRecord, read_history

HEADER: dict[str, Any] = {
    "code": {"pipeline/train/loop.py": "aaa", "pipeline/tune/ray/trainable.py": "bbb"},
    "versions": {"torch": "2.9.0", "ray": "2.50.0"},
}
OTHER: dict[str, Any] = {"code": {**HEADER["code"], "pipeline/train/loop.py": "ccc"}, "versions": HEADER["versions"]}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The journal of a search that has reported an epoch."""
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.start(TrialRecord("t0000", 0, {}))
        journal.report("t0000", 1, {"val/accuracy": 0.5})
    return path


def test_search_goes_on_with_the_code_that_began_it(begun: Path) -> None:
    assert changed_code(read_history(begun), HEADER) == []
    check_same_code(read_history(begun), HEADER, begun.parent)


def test_changed_file_is_refused_by_name_with_both_ways_out(begun: Path) -> None:
    with pytest.raises(UserError) as told:
        check_same_code(read_history(begun), OTHER, begun.parent)
    first, *others = str(told.value).splitlines()
    assert first == (
        f"the search in {begun.parent} was begun by other code than this; changed since: pipeline/train/loop.py."
    )
    assert any("check --resume-anyway" in line for line in others)
    assert any("check --new" in line for line in others)


def test_changed_version_is_told_with_both_numbers(begun: Path) -> None:
    newer = {**HEADER, "versions": {"torch": "2.10.0", "numpy": "2.3"}}
    assert changed_code(read_history(begun), newer) == [
        "torch 2.9.0 -> 2.10.0",
        "ray 2.50.0 -> none",
        "numpy none -> 2.3",
    ]


def test_files_that_came_or_went_are_changes(begun: Path) -> None:
    other = {**HEADER, "code": {"pipeline/train/loop.py": "aaa", "pipeline/train/new.py": "ddd"}}
    assert changed_code(read_history(begun), other) == ["pipeline/tune/ray/trainable.py", "pipeline/train/new.py"]


def test_search_without_an_epoch_has_nothing_that_could_differ(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.start(TrialRecord("t0000", 0, {}))
        check_same_code(journal.history, OTHER, tmp_path)
        journal.report("t0000", 1, {})
        with pytest.raises(UserError, match="begun by other code"):
            check_same_code(journal.history, OTHER, tmp_path)


def test_what_its_user_accepted_is_what_the_next_change_is_told_against(begun: Path) -> None:
    with Journal(begun, OTHER) as journal:
        journal.accept(OTHER["code"], OTHER["versions"])
    check_same_code(read_history(begun), OTHER, begun.parent)
    # Back to what began it is a change too, since there may be epochs of both by now.
    assert changed_code(read_history(begun), HEADER) == ["pipeline/train/loop.py"]


def test_header_stays_that_of_the_code_that_began_it(begun: Path) -> None:
    with Journal(begun, OTHER):
        pass
    assert read_history(begun).header["code"] == HEADER["code"]


def test_search_that_is_not_there_yet_differs_from_nothing(tmp_path: Path) -> None:
    check_same_code(SearchHistory(), HEADER, tmp_path)


def test_ledger_that_knows_no_code_was_begun_by_another(begun: Path) -> None:
    history = read_history(begun)
    history.header = {}
    with pytest.raises(
        UserError, match=r"changed since: pipeline/train/loop\.py, pipeline/tune/ray/trainable\.py, torch none ->"
    ):
        check_same_code(history, HEADER, begun.parent)


def test_changed_content_is_told_by_dotted_path_with_short_values() -> None:
    before = {"seed": 0, "train": {"lr": 0.1, "epochs": 16}, "space": {"controls": {"paper": {}}}, "data": "d" * 64}
    now = {"seed": 0, "train": {"lr": 0.2, "epochs": 16}, "space": {"controls": {}}, "data": "e" * 64, "split": [1, 2]}
    assert changed_content(before, now) == [
        "the images",
        "the split",
        "train.lr 0.1 -> 0.2",
        "space.controls.paper is gone",
    ]
    assert changed_content(before, before) == []
    assert changed_content({}, {}) == []


def test_changed_content_names_parameters_as_the_user_writes_them() -> None:
    before = {"seed": 50000, "sampler": {"name": "tpe"}, "then": "val/attention/auroc"}
    now = {"seed": 0, "sampler": {"name": "gp"}, "points": [1, 2]}
    assert changed_content(before, now) == [
        "base.seed 50000 -> 0",
        "search.sampler.name tpe -> gp",
        "search.choose.then no longer val/attention/auroc",
        "search.points now [1, 2]",
    ]


def test_parameter_that_only_one_space_has_is_named_whole() -> None:
    before = {"space": {"a.weight": {"low": 0.1, "high": 1.0}, "lr": {"low": 0.1}}}
    now = {"space": {"b.weight": {"low": 0.1, "high": 1.0}, "lr": {"low": 0.2}}, "note": {}}
    assert changed_content(before, now) == [
        "space.a.weight is gone",
        "space.lr.low 0.1 -> 0.2",
        "space.b.weight is new",
        "note is new",
    ]
