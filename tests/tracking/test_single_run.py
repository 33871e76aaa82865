"""Runs written at once last as long as they took, are written once, and have files put beside them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from support.mlflow_search import datasets, points

from pipeline.errors import UserError
from pipeline.tracking.dataset_inputs import DataUsed
from pipeline.tracking.single_run import attach, find_first, log_run
from pipeline.tracking.store import Store, client


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


def test_of_runs_the_first_that_is_there_is_taken(store: Store, experiment: str) -> None:
    made = [log_run(store, experiment=experiment, key=key, name=key, params={}, metrics={}) for key in "ab"]
    client(store).delete_run(made[0])
    assert find_first(store, ["0" * 32, *made]) == made[1]
    assert find_first(store, ["0" * 32, made[0]]) is None


def test_a_run_lasts_as_long_as_what_it_tells_of_took(store: Store, experiment: str) -> None:
    run = log_run(store, experiment=experiment, key="k", name="a run", params={}, metrics={}, seconds=181.0)
    info = client(store).get_run(run).info
    assert info.end_time - info.start_time == 181_000


def test_a_whole_run_is_written_once(store: Store, experiment: str, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "one.txt").write_text("1")
    (tmp_path / "card.md").write_text("# card")
    parent = log_run(store, experiment=experiment, key="p", name="parent", params={}, metrics={})

    def write(accuracy: float) -> str:
        return log_run(
            store,
            experiment=experiment,
            key="retrain/0",
            name="seed 0",
            params={"train.lr": 0.1},
            metrics={"test.accuracy": accuracy},
            curves=[(1, {"loss": 1.0}), (2, {"loss": math.nan})],
            tags={"sar.kind": "retrain"},
            parent_run_id=parent,
            artifacts={"maps": tmp_path / "maps", "": tmp_path / "card.md"},
            datasets=[DataUsed("digits", "9a" * 32, "data/prepared", "test")],
        )

    first = write(0.9)
    assert write(0.1) == first
    run = client(store).get_run(first)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 1.0, "test.accuracy": 0.9}
    assert points(store, run, "test.accuracy") == [(1, 0.9)]
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert {each.path for each in client(store).list_artifacts(first)} == {
        "maps",
        "card.md",
    }
    assert [each.tags[0].value for each in datasets(run)] == ["test"]


def test_a_whole_run_that_was_begun_is_completed(
    store: Store,
    experiment: str,
    runs: Callable[[], dict[str, Run]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write() -> str:
        return log_run(
            store,
            experiment=experiment,
            key="k",
            name="seed 0",
            params={"a": 1},
            metrics={"b": 2.0},
            curves=[(5, {"c": 3.0})],
        )

    with monkeypatch.context() as broken:

        def fail(*given: Any, **named: Any) -> None:
            raise MlflowException("gone")

        broken.setattr(MlflowClient, "set_terminated", fail)
        with pytest.raises(UserError, match="logging the run 'seed 0' failed"):
            write()
    assert runs()["seed 0"].info.status == "RUNNING"
    write()
    assert runs()["seed 0"].info.status == "FINISHED"
    assert points(store, runs()["seed 0"], "c") == [(5, 3.0)]
    assert points(store, runs()["seed 0"], "b") == [(5, 2.0)]
