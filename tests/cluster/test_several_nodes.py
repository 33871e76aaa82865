"""Searches on a real Ray cluster whose nodes are processes of this machine: connect, leaving, dying, being drained."""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.ray_cluster import Nodes, nodes_of_this_machine  # noqa: F401
from support.tiny_search import tiny_task

from pipeline.cluster import connect
from pipeline.errors import UserError
from pipeline.preflight.run_resources import trial_resources
from pipeline.stages.retrain.retrain_runs import retrain_jobs, run_retraining
from pipeline.stages.retrain.worker import HISTORY, RetrainJob
from pipeline.tune.journal.records import FAILED, STOP_FILE, SearchCallback, TrialRecord
from pipeline.tune.ray.runner import run_search
from pipeline.tune.task import SearchTask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _task(nodes: Nodes, folder: Path, **settings: Any) -> SearchTask:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return tiny_task(folder, {"search.trials": 2, "search.confirm.seeds": 0} | dotted, address=nodes.address, nodes=3)


class _Once(SearchCallback):
    """Does something once, on the report of an epoch. at: when it had been done."""

    def __init__(self, when: Callable[[TrialRecord], bool], act: Callable[[TrialRecord], object]) -> None:
        self._when, self._act, self.at = when, act, 0.0

    def replayed(self) -> None: ...
    def trial_started(self, trial: TrialRecord) -> None: ...
    def ending_early(self, reason: str, running: int, left: int) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...
    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        if not self.at and self._when(trial):
            self._act(trial)
            self.at = time.time()


def _events(task: SearchTask) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (task.folder / "journal.jsonl").read_text().splitlines()]


def _nodes_in(task: SearchTask) -> set[str]:
    return {event["node"] for event in _events(task) if "node" in event}


def _goes_back(task: SearchTask) -> list[str]:
    """Trials that trained an epoch again of which they had a checkpoint."""
    reached: dict[str, int] = {}
    epoch: dict[str, int] = {}
    back = []
    for event in _events(task):
        if event["event"] == "epoch":
            epoch[event["trial"]] = event["epoch"]
            back += [event["trial"]] if event["epoch"] <= reached.get(event["trial"], 0) else []
        elif event["event"] == "checkpoint":
            reached[event["trial"]] = epoch.get(event["trial"], 0)
    return back


def test_search_uses_a_node_that_joins_within_a_minute(nodes: Nodes, tmp_path: Path) -> None:
    nodes.leave_only(1)
    # Trials that last: one that waits is given a worker that has become free before a new one has started.
    task = _task(nodes, tmp_path, search__trials=50, train__epochs=40, search__scheduler__name="none")
    first = _Once(lambda trial: True, lambda trial: nodes.join())
    second = _Once(lambda trial: len(_nodes_in(task)) > 1, lambda trial: (task.folder / STOP_FILE).touch())
    outcome = run_search(task, [first, second])
    assert {trial.state for trial in outcome.trials} == {"complete"}
    assert outcome.stopped == "sar-search stop --finish"
    assert len(_nodes_in(task)) == 2
    assert second.at - first.at < 60


def test_trials_of_a_node_that_dies_go_on_elsewhere_from_their_checkpoint(nodes: Nodes, tmp_path: Path) -> None:
    workers = nodes.leave_only(2)
    task = _task(nodes, tmp_path, train__epochs=8, search__scheduler__name="none", search__max_failures=1)
    outcome = run_search(
        task, [_Once(lambda trial: trial.last_epoch >= 3, lambda trial: nodes.kill(_node_of(workers, trial)))]
    )
    assert [trial.state for trial in outcome.trials] == ["complete"] * 4
    moved = [trial for trial in outcome.trials if len(trial.nodes) > 1]
    assert moved, "no trial was on the node that died"
    assert _goes_back(task) == []


def test_node_lost_without_warning_counts_as_a_failure_and_a_drained_one_does_not(nodes: Nodes, tmp_path: Path) -> None:
    def lose(drained: bool) -> list[str]:
        workers = nodes.leave_only(2)

        def act(trial: TrialRecord) -> None:
            node = _node_of(workers, trial)
            if drained:
                nodes.drain(node)
                time.sleep(1)
            nodes.kill(node)

        folder = tmp_path / str(drained)
        settings = {"train__epochs": 8, "search__scheduler__name": "none", "search__max_failures": 0}
        task = _task(nodes, folder, **settings)
        return [
            str(trial.state) for trial in run_search(task, [_Once(lambda trial: trial.last_epoch >= 3, act)]).trials
        ]

    assert set(lose(drained=True)) == {"complete"}
    assert FAILED in lose(drained=False)


def _node_of(workers: list[Any], trial: TrialRecord) -> Any:
    return next(node for node in workers if node.node_id[:6] == trial.nodes[-1].split()[1])


def test_data_that_a_node_does_not_have_are_sent_to_it_once(nodes: Nodes, tmp_path: Path) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from pipeline.cluster.data_bundle import make_bundle, open_bundle, send_bundle

    nodes.leave_only(0)
    temporary = [tmp_path / "one", tmp_path / "two"]
    for place in temporary:
        place.mkdir()
    workers = [nodes.join(env_vars={"TMPDIR": str(place)}) for place in temporary]
    origin = tmp_path / "images.npy"
    origin.write_bytes(os.urandom(100_000_000))
    kept = origin.read_bytes()

    def read(parcel: Any) -> tuple[str, int, int]:
        path = open_bundle(parcel)["prepared/images.npy"]
        return str(path), path.stat().st_ino, path.stat().st_size

    with connect.connect_to_cluster(nodes.address):
        parcel = send_bundle(make_bundle({"prepared/images.npy": origin}), limit_bytes=10**9, storage=None)
        origin.unlink()
        found = [
            ray.get(
                [
                    ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(w.node_id, soft=False))(
                        read
                    ).remote(parcel)
                    for _ in range(3)
                ]
            )
            for w in workers
        ]
    for place, answers in zip(temporary, found, strict=True):
        assert len(set(answers)) == 1  # one file, whoever asked
        path = Path(answers[0][0])
        assert path.is_relative_to(place)
        assert path.read_bytes() == kept


def test_node_that_is_not_as_the_driver_is_told_by_name(nodes: Nodes, tmp_path: Path) -> None:
    nodes.leave_only(0)
    nodes.join(env_vars=_other_machine(tmp_path / "other"))
    task = _task(nodes, tmp_path)
    with pytest.raises(UserError) as refused:
        run_search(task, [])
    said = str(refused.value)
    assert "torch 9.9 there" in said
    assert "its clock is off by 180 minutes" in said
    assert not any(event["event"] == "started" for event in _events(task))
    nodes.leave_only(0)


def _other_machine(folder: Path) -> dict[str, str]:
    """The environment of a node with another torch, whose clock is three hours behind."""
    (folder / "torch-9.9.dist-info").mkdir(parents=True)
    (folder / "torch-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n")
    (folder / "sitecustomize.py").write_text("import time\n_now = time.time\ntime.time = lambda: _now() - 3 * 3600\n")
    return {"PYTHONPATH": str(folder)}


def test_node_that_joins_later_and_will_not_do_gets_no_trial_and_costs_none_a_failure(
    nodes: Nodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes.leave_only(1)
    other, joined, said = _other_machine(tmp_path / "other"), [], []
    # More trials than are needed: a worker's start takes as long as many of these, and the search ends when both are seen.
    settings = {"search__trials": 500, "search__max_failures": 0, "search__scheduler__name": "none"}
    task = _task(nodes, tmp_path, train__epochs=25, **settings)

    def act(trial: TrialRecord) -> None:
        joined.append(nodes.join(env_vars=other))
        joined.append(nodes.join())

    def both_are_seen(trial: TrialRecord) -> bool:
        said.append(capfd.readouterr().err)
        used = {node.split()[1] for node in _nodes_in(task)}
        return len(joined) == 2 and joined[1].node_id[:6] in used and "not used: " in "".join(said)

    enough = _Once(both_are_seen, lambda trial: (task.folder / STOP_FILE).touch())
    outcome = run_search(task, [_Once(lambda trial: True, act), enough])
    assert {trial.state for trial in outcome.trials} == {"complete"}
    said.append(capfd.readouterr().err)
    bad, good = (node.node_id[:6] for node in joined)
    lines = [line for line in "".join(said).splitlines() if line.startswith("not used: ")]
    assert len(lines) == 2
    assert all(f", {bad}): " in line for line in lines)
    assert "torch 9.9 there" in lines[0]
    assert "its clock is off by 180 minutes" in lines[1]
    used = {node.split()[1] for node in _nodes_in(task)}
    assert bad not in used
    assert good in used
    assert not list(tmp_path.rglob(".sar-search-*"))
    nodes.leave_only(1)


def test_plan_counts_what_fits_on_the_nodes_and_refuses_what_fits_on_none(nodes: Nodes, tmp_path: Path) -> None:
    nodes.leave_only(2)
    params = _task(nodes, tmp_path, search__cluster__address=nodes.address).params
    resources = trial_resources(params)
    assert (resources.address, resources.nodes, resources.max_concurrent, resources.machine_cpus) == (
        nodes.address,
        3,
        2,
        2,
    )
    with pytest.raises(UserError, match="a trial takes 2 CPUs and 0 GPUs, and no node of"):
        trial_resources(params.with_values({"search.cpus_per_trial": 2}, where="the test"))
    growing = {"search.cpus_per_trial": 2, "search.max_concurrent_trials": 5}
    assert trial_resources(params.with_values(growing, where="the test")).max_concurrent == 5


def test_gpu_that_is_asked_for_where_no_node_has_one_is_told(nodes: Nodes, tmp_path: Path) -> None:
    nodes.leave_only(1)
    task = _task(nodes, tmp_path)
    task = dataclasses.replace(task, resources=dataclasses.replace(task.resources, gpus=1.0))
    with pytest.raises(UserError, match=r"no node has a GPU, and a trial takes one \(search\.gpus_per_trial\)"):
        run_search(task, [])


def test_storage_that_a_node_does_not_share_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    nodes.leave_only(1)
    task = _task(nodes, tmp_path, search__cluster__storage=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"search\.cluster\.storage: .*nowhere: no such folder here"):
        run_search(dataclasses.replace(task), [])


@pytest.mark.parametrize("workers", [1, 2])
def test_retraining_goes_on_elsewhere_when_a_node_dies(workers: int, nodes: Nodes, tmp_path: Path) -> None:
    there = nodes.leave_only(3)
    storage = tmp_path / "storage"
    storage.mkdir()
    settings = {
        "retrain__seeds": 1 if workers > 1 else 3,
        "retrain__workers_per_run": workers,
        "search__cluster__address": nodes.address,
        "search__cluster__storage": str(storage),
        "train__epochs": 12,
    }
    task = _task(nodes, tmp_path, **settings)
    given: dict[str, Any] = {"prepared": task.prepared, "split": task.split, "hashes": [], "state": tmp_path / "state"}
    jobs = retrain_jobs(task.params, {"best": {}}, seeds=task.params.retrain.seed_bounds[0], **given)
    watch = threading.Thread(target=_kill_when_kept, args=(nodes, there, storage, 3), daemon=True)
    watch.start()
    done = list(run_retraining(task.params, jobs))
    assert {job.name for job in done} == {job.name for job in jobs}
    moved = [parts for job in jobs if len(parts := _parts(job)) > 1]
    assert moved, "no run was on the node that died"
    for first, second in moved:
        assert first["node"] != second["node"]
        assert second["after"] >= 3  # it had a checkpoint of that epoch
    assert len({parts[0]["node"] for parts in map(_parts, jobs)}) == (1 if workers > 1 else 3)
    assert not list(storage.glob("searches/retrain-*/*"))


@pytest.mark.parametrize("drained", [True, False])
def test_retraining_counts_a_node_lost_without_warning_and_not_a_drained_one(
    drained: bool, nodes: Nodes, tmp_path: Path
) -> None:
    there = nodes.leave_only(3)
    storage = tmp_path / "storage"
    storage.mkdir()
    settings = {
        "retrain__seeds": 1,
        "search__cluster__address": nodes.address,
        "search__cluster__storage": str(storage),
        "search__max_failures": 1,
        "train__epochs": 100,
    }
    task = _task(nodes, tmp_path, **settings)
    given: dict[str, Any] = {"prepared": task.prepared, "split": task.split, "hashes": [], "state": tmp_path / "state"}
    jobs = retrain_jobs(task.params, {"best": {}}, seeds=task.params.retrain.seed_bounds[0], **given)
    watch = threading.Thread(target=_lose_two, args=(nodes, there, storage, drained), daemon=True)
    watch.start()
    if drained:
        list(run_retraining(task.params, jobs))
        assert len({part["node"] for part in _parts(jobs[0])}) == 3
    else:
        with pytest.raises(UserError, match=r"a worker was lost more often than search\.max_failures allows"):
            list(run_retraining(task.params, jobs))
    watch.join()


def _parts(job: RetrainJob) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = json.loads((job.folder / HISTORY).read_text())["parts"]
    return parts


def _kill_when_kept(nodes: Nodes, there: list[Any], place: Path, epoch: int) -> None:
    """Kill the node that the first run to have a checkpoint of that epoch, or a later one, is on."""
    nodes.kill(_node_with_a_checkpoint(there, place, epoch))


def _lose_two(nodes: Nodes, there: list[Any], place: Path, drained: bool) -> None:
    """Have the node die that the run is on, and then the one that it has gone on upon. drained: the first, before."""
    first = _node_with_a_checkpoint(there, place, 3)
    if drained:
        nodes.drain(first)
        time.sleep(1)
    nodes.kill(first)
    nodes.kill(_node_with_a_checkpoint([node for node in there if node is not first], place, 3))


def _node_with_a_checkpoint(there: list[Any], place: Path, epoch: int) -> Any:
    """The first of these nodes on which a run has come to a checkpoint of that epoch, or a later one."""
    while True:
        for history in place.glob(f"searches/retrain-*/*/epoch-*/{HISTORY}"):
            if int(history.parent.name.removeprefix("epoch-")) >= epoch:
                with suppress(OSError, ValueError):  # the next epoch's has taken its place
                    name = json.loads(history.read_text())["parts"][-1]["node"].split()[1]
                    for node in there:
                        if node.node_id[:6] == name:
                            return node
        time.sleep(0.01)
