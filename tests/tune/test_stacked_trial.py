"""Claims about a stack of confirmations on its worker: what it reports and stores, and when it gives the runs back."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.prepared_digits import write_digits
from support.run_comparison import check_rounded_alike

from pipeline.config import Params
from pipeline.models.stacked_network import CannotStack
from pipeline.train import checkpoint_writer
from pipeline.train.loop import Diverged, Epoch, end_epoch
from pipeline.train.stacked.stack_speed import StackChoice
from pipeline.tune.ray import stacked_trial as module
from pipeline.tune.ray.stacked_trial import run_stack
from pipeline.tune.ray.trainable import run_trial
from pipeline.tune.ray.trial_spec import TrialSpec

pytestmark = pytest.mark.usefixtures("one_thread")

A, B = "t0000-seed1001", "t0000-seed1002"
SEEDS = {A: 1001, B: 1002}
SETTINGS = {
    "base.device": "cpu",
    "model.kwargs": {"patch_size": 3, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "train.epochs": 3,
    "train.batch_size": 32,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("data"), train_fraction=0.1)


class Killed(BaseException):
    """The worker's end."""


@dataclass
class Worker:
    """A worker without Ray. newest: Ray's checkpoint of a trial that it starts again. dies_after: number of reports."""

    data: Path
    folder: Path
    reports: list[dict[str, Any]] = field(default_factory=list)
    newest: Path | None = None
    dies_after: int | None = None

    def stack(
        self, names: Any = (A, B), *, kept: Mapping[str, str] | None = None, measure: bool = False, **given: Any
    ) -> None:
        runs = [
            {"trial": name, "seed": SEEDS[name], "checkpoint": (kept or {}).get(name), "measured": {}} for name in names
        ]
        run_stack({**runs[0], "study": None, "values": {}, "stack": runs, "measure": measure}, self.task(**given))

    def single(self, name: str, checkpoint: str | None = None, **given: Any) -> None:
        config = {"trial": name, "seed": SEEDS[name], "checkpoint": checkpoint, "measured": {}, "study": None}
        run_trial(config | {"values": {}}, self.task(**given))

    def task(self, **given: Any) -> TrialSpec:
        params = Params().with_values(SETTINGS | given, where="the test").model_dump(by_alias=True)
        return TrialSpec(params, self.data / "prepared", self.data / "split.json", [2], pauses=False, threads=1, gpus=0)

    def report(self, report: dict[str, Any], checkpoint: Any = None) -> None:
        json.dumps(report)  # Ray sends it
        self.reports.append(report | {"stored": checkpoint is not None})
        if checkpoint is not None:
            self.newest = self.folder / f"checkpoint_{1 + len(list(self.folder.glob('checkpoint_*'))):06d}"
            shutil.copytree(checkpoint.path, self.newest)
        if len(self.reports) == self.dies_after:
            raise Killed

    def of(self, name: str) -> list[dict[str, Any]]:
        return [each for report in self.reports for each in report.get("stack", ()) if each["trial"] == name]


@pytest.fixture
def worker(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    made = Worker(data, tmp_path)
    monkeypatch.setattr(module.tune, "report", made.report)
    monkeypatch.setattr(
        module.tune,
        "get_checkpoint",
        lambda: None if made.newest is None else module.tune.Checkpoint.from_directory(str(made.newest)),
    )
    return made


def singles(worker: Worker, name: str, **given: Any) -> list[dict[str, Any]]:
    """Reports of a run alone, on a worker of its own."""
    kept, worker.reports, worker.newest = (worker.reports, worker.newest), [], None
    folder, worker.folder = worker.folder, worker.folder / f"alone-{name}"
    worker.single(name, **given)
    found, worker.folder = worker.reports, folder
    worker.reports, worker.newest = kept
    return found


def check_like(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [each["epoch"] for each in found] == [each["epoch"] for each in expected]
    for mine, theirs in zip(found, expected, strict=True):
        check_rounded_alike(mine["metrics"], theirs["metrics"])
        assert (mine["scores"] is None) == (theirs["scores"] is None)
        assert mine["node"] == theirs["node"]
        assert mine["failed"] is None
        assert mine["usage"].keys() == theirs["usage"].keys()


@pytest.mark.parametrize("beside", [False, True])
def test_each_run_reports_and_stores_what_it_would_alone(
    worker: Worker, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if beside:  # checkpoints are written while the next epoch is trained
        monkeypatch.setattr(checkpoint_writer, "LEAST_S", -1.0)
        monkeypatch.setattr(checkpoint_writer, "LEAST_SHARE", -1.0)
    worker.stack()
    assert [(report["epoch"], report["stored"]) for report in worker.reports] == [(1, True), (2, True), (3, True)]
    assert worker.newest is not None
    for name in (A, B):
        check_like(worker.of(name), singles(worker, name))
        (alone,) = worker.folder.glob(f"alone-{name}/checkpoint_000003")
        own = worker.newest / name
        for path in alone.iterdir():
            assert (own / path.name).stat().st_size == pytest.approx(path.stat().st_size, rel=0.02)
        mine, theirs = (json.loads((place / "checkpoint.json").read_text()) for place in (own, alone))
        assert mine.keys() == theirs.keys()
        assert (mine["seed"], mine["values"]) == (theirs["seed"], theirs["values"])


def test_checkpoints_are_as_rare_as_asked_for_and_reports_are_not(worker: Worker) -> None:
    worker.stack(**{"search.checkpoint_every": 2})
    assert [(report["epoch"], report["stored"]) for report in worker.reports] == [(1, False), (2, True), (3, True)]


def test_killed_stack_is_resumed_by_single_runs_and_the_reverse(worker: Worker) -> None:
    whole = {name: singles(worker, name) for name in (A, B)}
    worker.dies_after = 1
    with pytest.raises(Killed):
        worker.stack()
    place, worker.newest, worker.dies_after, worker.reports = worker.newest, None, None, []
    assert place is not None
    worker.single(B, str(place / B))
    check_like(worker.reports, whole[B][1:])

    kept = {}
    for name in (A, B):
        worker.folder = worker.folder / name
        worker.newest, worker.dies_after, worker.reports = None, 1, []
        with pytest.raises(Killed):
            worker.single(name)
        kept[name] = str(worker.newest)
    worker.newest, worker.dies_after, worker.reports = None, None, []
    worker.stack(kept=kept)
    for name in (A, B):
        check_like(worker.of(name), whole[name][1:])


def test_worker_that_ray_starts_again_goes_on_with_the_runs_of_its_newest_checkpoint(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.dies_after = 2
    with pytest.raises(Killed):
        worker.stack()
    assert worker.newest is not None
    shutil.rmtree(worker.newest / A)  # it has ended since
    worker.dies_after, worker.reports = None, []
    monkeypatch.setattr(module, "choose_stack_size", None)  # it was measured before the first epoch
    worker.stack(measure=True)
    assert [[each["trial"] for each in report["stack"]] for report in worker.reports] == [[B]]
    assert worker.reports[0]["epoch"] == 3


def test_checkpoints_of_the_last_epoch_are_reported_and_nothing_is_trained(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.stack()
    before, worker.reports = worker.reports[-1], []
    monkeypatch.setattr(module, "train_stack", None)
    worker.stack()
    (again,) = worker.reports
    for mine, theirs in zip(again["stack"], before["stack"], strict=True):
        assert (mine["epoch"], mine["metrics"], mine["scores"]) == (3, theirs["metrics"], theirs["scores"])


def test_run_that_diverges_is_told_once_and_the_other_goes_on(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[None] = []

    def diverge(*given: Any, **named: Any) -> Epoch:
        ended.append(None)
        if len(ended) == 3:
            raise Diverged(2)
        return end_epoch(*given, **named)

    monkeypatch.setattr("pipeline.train.stacked.stacked_loop.end_epoch", diverge)
    worker.stack()
    assert [each["failed"] is None for each in worker.of(A)] == [True, False]
    failed = worker.of(A)[-1]
    assert failed["failed"] == f"diverged: {Diverged(2)}"
    assert (failed["epoch"], failed["metrics"]) == (2, {})
    assert [each["epoch"] for each in worker.of(B)] == [1, 2, 3]
    assert worker.newest is not None
    assert [path.name for path in worker.newest.iterdir() if path.is_dir()] == [B]


def given_back(worker: Worker) -> dict[str, Any]:
    last = worker.reports[-1]
    assert last["failed"] == "apart"
    found: dict[str, Any] = last["apart"]
    return found


def test_runs_that_cannot_be_stacked_are_given_back_with_the_reason(worker: Worker) -> None:
    worker.stack(**{"train.optimizer": "lamb"})
    assert given_back(worker)["size"] == 1
    assert "lamb" in given_back(worker)["why"]
    assert len(worker.reports) == 1


def test_memory_that_does_not_suffice_gives_the_runs_back_after_what_was_stored(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[None] = []

    def full(*given: Any, **named: Any) -> Epoch:
        ended.append(None)
        if len(ended) == 3:
            raise MemoryError
        return end_epoch(*given, **named)

    monkeypatch.setattr("pipeline.train.stacked.stacked_loop.end_epoch", full)
    worker.stack()
    assert given_back(worker) == {"size": 1, "why": "memory does not suffice for 2 seeds together"}
    assert [report["epoch"] for report in worker.reports] == [1, 0]


def test_checkpoints_of_different_epochs_give_the_runs_back(worker: Worker) -> None:
    worker.dies_after = 1
    with pytest.raises(Killed):
        worker.single(A)
    kept, worker.newest, worker.dies_after = {A: str(worker.newest)}, None, None
    worker.stack(kept=kept)
    assert given_back(worker)["why"] == "their checkpoints are of different epochs (0, 1)"


def test_other_errors_are_left_to_ray(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **named: Any) -> Epoch:
        raise KeyError("x")

    monkeypatch.setattr("pipeline.train.stacked.stacked_loop.end_epoch", broken)
    with pytest.raises(KeyError):
        worker.stack()
    assert worker.reports == []


@pytest.mark.parametrize(
    ("found", "size", "why"),
    [
        (StackChoice(1, "together they would not be faster on this device"), 1, "together they would not be faster"),
        (StackChoice(1, gain=1.0), 1, "more would not be faster"),
        (StackChoice(2, gain=1.7), None, None),
        (CannotStack("no"), 1, "no"),
    ],
)
def test_measurement_decides_whether_the_runs_are_stacked(
    worker: Worker, found: Any, size: int | None, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def choose(params: Params, data: Any, **given: Any) -> StackChoice:
        asked.append(given)
        if isinstance(found, Exception):
            raise found
        answer: StackChoice = found
        return answer

    monkeypatch.setattr(module, "choose_stack_size", choose)
    worker.stack(measure=True)
    assert asked == [{"most": 2, "measured": True, "weights": {}}]
    if size is None:
        assert [report["epoch"] for report in worker.reports] == [1, 2, 3]
    else:
        assert given_back(worker)["size"] == size
        assert why is not None
        assert why in given_back(worker)["why"]


def test_size_is_measured_on_the_training_images(worker: Worker) -> None:
    worker.stack(measure=True)
    assert len(worker.reports) in (1, 3)


def test_each_run_measures_its_speed_once_before_its_first_epoch(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure_speed", lambda model, data, goals: {"latency_ms": 99.0})
    worker.stack(**{"search.constraints.max_latency_ms": 3.0})
    assert [report["epoch"] for report in worker.reports] == [0, 1, 2, 3]  # a confirmation is trained all the same
    assert [each["measured"] for each in worker.reports[0]["stack"]] == [{"latency_ms": 99.0}] * 2
