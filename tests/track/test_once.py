"""Runs written at once last as long as they took, and files are put beside a run. More of both is in test_runs.py."""

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.track.once import attach, log_run
from pipeline.track.store import Store, client


def test_a_file_is_put_beside_its_run_and_replaced(store: Store, experiment: str, tmp_path: Path) -> None:
    run = log_run(store, experiment=experiment, key="k", name="a run", params={}, metrics={})
    page = tmp_path / "index.html"
    for text in ("first", "second"):
        page.write_text(text)
        attach(store, run, page, folder="report")
    (listed,) = client(store).list_artifacts(run, "report")
    assert listed.path == "report/index.html"
    assert Path(client(store).download_artifacts(run, listed.path, str(tmp_path))).read_text() == "second"


def test_a_run_that_is_gone_is_told(store: Store, experiment: str, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("text")
    with pytest.raises(UserError, match=r"logging index\.html to the run 0000 failed"):
        attach(store, "0000", page, folder="report")


def test_a_run_lasts_as_long_as_its_epochs_took(store: Store, experiment: str) -> None:
    curves = [(epoch, {"seconds": 90.5, "loss": 1.0}) for epoch in (1, 2)]
    run = log_run(store, experiment=experiment, key="k", name="a run", params={}, metrics={}, curves=curves)
    info = client(store).get_run(run).info
    assert info.end_time - info.start_time == 181_000
