"""A search whose checkpoints lie in a bucket: trials on two nodes, interrupted, gone on with from there."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.ray_cluster import Nodes, nodes_of_this_machine  # noqa: F401
from support.s3_store import s3_environment, s3_store_of_a_module  # noqa: F401
from support.services import BUCKET
from support.tiny_search import tiny_task

from pipeline.cluster import storage
from pipeline.errors import UserError
from pipeline.tune.journal.records import SearchCallback, TrialRecord
from pipeline.tune.journal.remote_files import read_remote_files
from pipeline.tune.ray.runner import run_search
from pipeline.tune.task import SearchTask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _task(nodes: Nodes, folder: Path, **settings: Any) -> SearchTask:
    asked = {
        "search.trials": 4,
        "search.confirm.seeds": 0,
        "search.keep_checkpoints": 1,
        "search.scheduler.name": "none",
        "search.cluster.storage": f"s3://{BUCKET}/sar",
        "train.epochs": 6,
    }
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return tiny_task(folder, asked | dotted, address=nodes.address, nodes=3, max_concurrent=2)


class _Interrupted(SearchCallback):
    """An interruption once two trials have a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._ledger = folder / "journal.jsonl"

    def replayed(self) -> None: ...
    def trial_started(self, trial: TrialRecord) -> None: ...
    def ending_early(self, reason: str, running: int, left: int) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...
    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        if len({event["trial"] for event in _events(self._ledger) if event["event"] == "checkpoint"}) > 1:
            raise KeyboardInterrupt


def _events(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


@pytest.mark.usefixtures("s3")
def test_search_is_interrupted_and_goes_on_from_checkpoints_in_the_bucket(nodes: Nodes, tmp_path: Path) -> None:
    nodes.leave_only(2)
    task = _task(nodes, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_search(task, [_Interrupted(task.folder)])
    before = _events(task.folder / "journal.jsonl")
    kept = {event["trial"]: event["path"] for event in before if event["event"] == "checkpoint"}
    assert all(path.startswith(f"s3://{BUCKET}/sar/searches/") for path in kept.values())

    outcome = run_search(task, [])
    assert {trial.state for trial in outcome.trials} == {"complete"}
    assert len(outcome.trials) == 6
    after = _events(task.folder / "journal.jsonl")[len(before) :]
    reached = {event["trial"]: event["epoch"] for event in before if event["event"] == "epoch"}
    began = {}
    for event in after:
        if event["event"] == "epoch":
            began.setdefault(event["trial"], event["epoch"])
    # A report comes before its checkpoint, so that an interruption between them costs an epoch.
    assert all(began[name] in (reached[name], reached[name] + 1) and began[name] > 1 for name in kept if name in began)
    assert any(name in began for name in kept)
    assert len({event["node"] for event in after if event["event"] == "epoch"}) == 2

    outside = read_remote_files(task.folder)
    assert outside is not None
    (root,) = outside.checkpoints
    there = {place.split("/")[-2] for place in storage.list_dir(root, 3) if "checkpoint_" in place}
    assert there == {"baseline", "paper", max(outcome.trials[2:], key=lambda trial: trial.metric("val/accuracy")).id}
    assert not [name for name in storage.list_dir(f"s3://{BUCKET}/sar") if ".sar-search-" in name]
    assert not (task.folder / "ray").exists()


@pytest.mark.usefixtures("s3")
def test_bucket_that_is_not_there_is_told_before_any_trial(nodes: Nodes, tmp_path: Path) -> None:
    task = _task(nodes, tmp_path, search__cluster__storage="s3://nosuch/sar")
    with pytest.raises(UserError, match=r"search\.cluster\.storage: s3://nosuch/sar: there is no bucket nosuch"):
        run_search(task, [])
    assert not any(event["event"] == "started" for event in _events(task.folder / "journal.jsonl"))


def test_secrets_of_the_bucket_are_in_no_file(
    s3: str, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.leave_only(1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "unmistakable-secret")
    task = _task(nodes, tmp_path, search__trials=1, train__epochs=2)
    run_search(task, [])
    looked_at = [path for place in (tmp_path, *nodes.folders) for path in place.rglob("*") if path.is_file()]
    assert any(path.name.startswith("raylet") for path in looked_at)
    holding = [path for path in looked_at if b"unmistakable" in path.read_bytes()]
    assert holding == []
    kept = [place for place in storage.list_dir(f"s3://{BUCKET}/sar/searches", 3) if place.endswith((".json", ".pkl"))]
    assert kept
    assert not [place for place in kept if "unmistakable" in storage.read_bytes(place).decode(errors="replace")]
