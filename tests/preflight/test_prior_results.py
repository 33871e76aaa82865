"""Claims about `search.warm_start`: which search or file is meant, and that one that has begun needs neither."""

from pathlib import Path

import pytest
from support.search_state import WEIGHT, content_of, make_workspace, open_search, run, set_params, write_search

from pipeline.config import load_params
from pipeline.data.sources.source_config import Preview
from pipeline.errors import UserError
from pipeline.preflight.prior_results import load_prior_results
from pipeline.tune.journal.records import COMPLETE
from pipeline.tune.space import load_space
from pipeline.tune.study.warm_start import PriorResult
from pipeline.workspace import Workspace

DIGITS = Preview(images=1797, classes=tuple("0123456789"), channels=1)


def known(workspace: Workspace) -> list[PriorResult]:
    params = load_params(workspace.params)
    space = load_space(workspace.root / "search_spaces" / "sar.yaml", params, shown_as="sar.yaml")
    return load_prior_results(workspace, params, space, DIGITS)


def asked(workspace: Workspace, source: str, **train: float) -> None:
    set_params(
        workspace, {"train": train, "search": {"warm_start": source}} if train else {"search": {"warm_start": source}}
    )


def test_nothing_is_known_where_nothing_is_asked_for(tmp_path: Path) -> None:
    assert known(make_workspace(tmp_path)) == []


def test_search_is_found_by_the_beginning_of_its_id_and_its_ended_trials_are_known(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    folder = write_search(workspace)
    asked(workspace, folder.name[:6], lr=0.004)  # another recipe: a new search
    assert [each["state"] for each in known(workspace)] == ["complete", "pruned"]


def test_unknown_search_and_file_are_refused_by_their_names(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    write_search(workspace)
    asked(workspace, "ffff")
    with pytest.raises(
        UserError, match=r"^params\.yaml: search\.warm_start: ffff: .*no id begins with this.*ends in \.csv"
    ) as said:
        known(workspace)
    assert "sar-search status" in str(said.value)
    asked(workspace, "there/is/none.csv")
    with pytest.raises(UserError, match=r"^params\.yaml: search\.warm_start: there/is/none\.csv: cannot be read"):
        known(workspace)


def test_search_of_other_epochs_is_refused(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    folder = write_search(workspace)
    asked(workspace, folder.name[:8], epochs=20)
    with pytest.raises(UserError, match=r"its trials have 8 epochs, but train\.epochs is 20; leave"):
        known(workspace)


def test_csv_is_found_from_the_checkout(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    (tmp_path / "mine.csv").write_text(f"{WEIGHT},val/accuracy\n0.5,0.9\n")
    asked(workspace, "mine.csv")
    (row,) = known(workspace)
    assert row["values"] == {WEIGHT: 0.5}


def test_search_that_has_begun_goes_on_without_its_source(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    asked(workspace, "gone.csv")
    with open_search(workspace, content_of(workspace)) as journal:
        run(journal, "t0000", epochs=1, state=COMPLETE)
    assert known(workspace) == []


def test_parameters_of_known_settings_are_counted_where_they_are_bounded(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    (tmp_path / "mine.csv").write_text(f"{WEIGHT},val/accuracy\n0.5,0.9\n")
    set_params(workspace, {"search": {"warm_start": "mine.csv", "constraints": {"max_parameters": 1e6}}})
    (row,) = known(workspace)
    assert row["metrics"] == {"parameters": 203_466.0}
