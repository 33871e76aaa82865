"""Claims about one trial: what it reports, and what it does when memory runs out. Nothing is trained."""

import json
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline import assembly
from pipeline.config import Params
from pipeline.models.model_config import Weights
from pipeline.train import checkpoint_writer
from pipeline.train.loop import Diverged
from pipeline.tune.journal.image_scores import unpack_scores
from pipeline.tune.ray import trainable as module
from pipeline.tune.ray.trainable import run_trial
from pipeline.tune.ray.trial_spec import TrialSpec
from pipeline.tune.schedulers.factory import make_scheduler

CPU_USED = "system/process_cpu_utilization_percentage"
OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Worker:
    """What surrounds a trial on a worker: Ray's reports and checkpoints, and a training loop that follows a script.

    script: of every attempt, what happens at each of its epochs: None for an epoch, or an error that is raised.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.script = folder, [[None, None, None]]
        self.reports: list[dict[str, Any]] = []
        self.network = torch.nn.Module()
        self.network.register_buffer("kept", torch.zeros(1))
        self.trained: list[int] = []
        self.storing: Callable[[], None] = lambda: None  # what Ray does while it stores a checkpoint
        self.attempts: list[dict[str, Any]] = []
        self.newest: Path | None = None
        self.weights = {"mine.pth": Weights("mine.pth", "/there/mine.pth", "f00d")}  # every attempt's network gets them
        data = SimpleNamespace(device=torch.device("cpu"), batches=lambda role, **_: role)
        monkeypatch.setattr(module, "load_data", lambda *of: data)
        monkeypatch.setattr(module, "build_run", self._build)
        monkeypatch.setattr(assembly, "fit", self._fit)
        monkeypatch.setattr(assembly, "load_weights", lambda folder, model: model.update(loaded=str(folder)))
        monkeypatch.setattr(assembly, "load_state", lambda folder: {"epoch": int((folder / "epoch").read_text())})
        monkeypatch.setattr(module, "read_sidecar", lambda folder: json.loads((folder / "sidecar").read_text()))
        monkeypatch.setattr(module, "write_checkpoint", self._write)
        monkeypatch.setattr(module.tune, "report", self._report)
        monkeypatch.setattr(module.tune, "get_checkpoint", self._get_checkpoint)

    def run(
        self,
        *,
        checkpoint: str | None = None,
        values: dict[str, Any] | None = None,
        seed: int | None = None,
        study: str | None = "search",
        measured: dict[str, float] | None = None,
        **settings: Any,
    ) -> None:
        params = Params().with_values({"train.epochs": 3, "base.seed": 7, **settings}, where="")
        scheduler = params.search.scheduler
        rungs = make_scheduler(scheduler, params.train.epochs, scheduler.grace_period or 1).rung_epochs
        task = TrialSpec(
            params.model_dump(by_alias=True),
            self.folder,
            self.folder,
            rungs,
            scheduler.name == "asha",
            1,
            0.0,
            weights=self.weights,
        )
        config = {"trial": "t0000", "study": study, "values": values or {}, "checkpoint": checkpoint, "seed": seed}
        config["measured"] = measured or {}
        run_trial(config, task)

    def checkpoint(self, epoch: int, name: str = "earlier") -> str:
        """A checkpoint of an earlier session."""
        place = self.folder / name
        place.mkdir()
        (place / "epoch").write_text(str(epoch))
        (place / "sidecar").write_text(json.dumps({"metrics": {"val/accuracy": 0.1 * epoch}}))
        return str(place)

    @property
    def epochs(self) -> list[int]:
        return [report["epoch"] for report in self.reports]

    def _build(self, params: Params, data: Any, *, seed: int, weights: Any) -> Any:
        assert weights is self.weights
        self.attempts.append({"accumulate": params.train.accumulate, "seed": seed})
        return SimpleNamespace(model={}, regularizers={}, sidecar={})

    def _fit(self, model: Any, train: Any, config: Any, *, resume: Any, seed: int, **others: Any) -> Iterator[Any]:
        attempt, first = self.attempts[-1], resume["epoch"] if resume else 0
        attempt |= {"from": first, "fit": (config.accumulate, seed)}
        script = self.script[len(self.attempts) - 1]
        for epoch in range(first + 1, config.epochs + 1):
            error, script[epoch - 1] = script[epoch - 1], None  # an error that is kept would keep its frames
            if error is not None:
                raise error
            metrics = {"val/accuracy": 0.1 * epoch, "seconds": 1.0}
            self.network.kept.fill_(epoch)  # in place, as training does
            self.trained.append(epoch)
            yield SimpleNamespace(
                number=epoch,
                metrics=metrics,
                model=self.network,
                state=lambda e=epoch: {"epoch": e},
                correct=lambda e=epoch: [True] * e + [False],
                probabilities=lambda e=epoch: e,
                usage={CPU_USED: 10.0 * epoch} if others["meter"] else {},
            )

    def _write(self, folder: Path, weights: Any, sidecar: Any, *, state: dict[str, Any]) -> None:
        self.storing()
        kept = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
        (folder / "epoch").write_text(str(state["epoch"]))
        (folder / "weights").write_text(f"{kept['kept'].item():g}")
        (folder / "sidecar").write_text(json.dumps(sidecar))

    def _report(self, report: dict[str, Any], checkpoint: Any = None) -> None:
        self.reports.append({**report, "checkpoint": checkpoint is not None, "trained": len(self.trained)})
        if checkpoint is not None:  # what was persisted outlives the trial's temporary folder
            self.newest = self.folder / f"persisted-{report['epoch']}"
            shutil.copytree(checkpoint.path, self.newest, dirs_exist_ok=True)

    def _get_checkpoint(self) -> Any:
        return None if self.newest is None else module.tune.Checkpoint.from_directory(str(self.newest))


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(tmp_path, monkeypatch)


def test_trial_reports_every_epoch_with_its_metrics_and_checkpoint(worker: Worker) -> None:
    worker.run()
    assert worker.epochs == [1, 2, 3]
    last = worker.reports[-1]
    assert last["objective"] == pytest.approx(0.3)
    assert last["metrics"] == {"val/accuracy": pytest.approx(0.3), "seconds": 1.0}
    assert last["failed"] is None
    assert all(report["checkpoint"] for report in worker.reports)
    assert worker.attempts == [{"accumulate": 1, "seed": 7, "from": 0, "fit": (1, 7)}]


@pytest.mark.parametrize("every", [1, 9])  # with a checkpoint each, and with one at the end alone
def test_what_an_epoch_used_is_reported_beside_its_metrics_and_in_no_checkpoint(worker: Worker, every: int) -> None:
    worker.run(study=None, **{"search.checkpoint_every": every})
    assert [report["usage"] for report in worker.reports] == [{CPU_USED: 10.0}, {CPU_USED: 20.0}, {CPU_USED: 30.0}]
    assert not any(CPU_USED in report["metrics"] for report in worker.reports)
    assert worker.newest is not None
    assert "system/" not in (worker.newest / "sidecar").read_text()


def test_without_system_metrics_nothing_is_measured(worker: Worker) -> None:
    worker.run(**{"tracking.system_metrics": False})
    assert [report["usage"] for report in worker.reports] == [{}, {}, {}]


def test_checkpoints_have_the_weights_that_their_epoch_says_to_keep(worker: Worker) -> None:
    worker.run()
    assert worker.newest is not None
    assert [(worker.newest / name).read_text() for name in ("epoch", "weights")] == ["3", "3"]


def test_trial_leaves_checkpoints_now_and_then_and_always_at_its_end(worker: Worker) -> None:
    worker.script = [[None] * 5]
    worker.run(**{"train.epochs": 5, "search.checkpoint_every": 2, "search.scheduler.grace_period": 5})
    assert [report["checkpoint"] for report in worker.reports] == [False, True, False, True, True]


@pytest.mark.parametrize(
    ("scheduler", "study", "there"), [("asha", "search", True), ("asha", None, False), ("median", "search", False)]
)
def test_trial_that_may_be_paused_leaves_a_checkpoint_at_every_rung(
    worker: Worker, scheduler: str, study: str | None, there: bool
) -> None:
    worker.script = [[None] * 5]
    settings = {"search.scheduler.name": scheduler, "search.checkpoint_every": 2, "search.scheduler.grace_period": 3}
    worker.run(study=study, **{"train.epochs": 5, **settings})
    assert [report["checkpoint"] for report in worker.reports] == [False, True, there, True, True]


# Checkpoints that take long are written and reported while the next epoch is trained.


@pytest.fixture
def slow(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Six epochs; each checkpoint takes longer than training goes on by itself, except where it is waited for."""
    monkeypatch.setattr(checkpoint_writer, "LEAST_S", 0.02)
    worker.script = [[None] * 6]
    worker.storing = lambda: time.sleep(0.05)
    return worker


def trained_at(worker: Worker) -> list[int]:
    """Of each report, how many epochs had been trained or begun by then."""
    return [report["trained"] for report in worker.reports]


def test_slow_checkpoint_is_reported_during_the_next_epoch_unless_the_scheduler_decides_there(slow: Worker) -> None:
    slow.run(**{"train.epochs": 6, "search.scheduler.grace_period": 3})
    # The first is timed, the third is a rung, and the last is the end.
    assert trained_at(slow) == [1, 3, 3, 5, 6, 6]
    assert slow.epochs == [1, 2, 3, 4, 5, 6]


def test_nobody_decides_over_controls_before_their_end(slow: Worker) -> None:
    slow.run(study=None, **{"train.epochs": 6, "search.scheduler.grace_period": 3})
    assert trained_at(slow) == [1, 3, 4, 5, 6, 6]


def test_slow_checkpoint_has_the_weights_of_its_own_epoch(slow: Worker) -> None:
    slow.run(**{"train.epochs": 6, "search.scheduler.grace_period": 6})
    for epoch in range(1, 7):
        kept = slow.folder / f"persisted-{epoch}"
        assert [(kept / name).read_text() for name in ("epoch", "weights")] == [str(epoch)] * 2


def test_report_without_a_checkpoint_comes_after_the_one_before(slow: Worker) -> None:
    slow.script = [[None] * 6]
    slow.run(**{"train.epochs": 6, "search.checkpoint_every": 2, "search.scheduler.grace_period": 6})
    assert slow.epochs == [1, 2, 3, 4, 5, 6]


def test_checkpoint_under_way_is_reported_before_the_failure_of_the_next_epoch(slow: Worker) -> None:
    slow.script = [[None, None, Diverged(3), None, None, None]]
    slow.run(**{"train.epochs": 6, "search.scheduler.grace_period": 6})
    assert slow.epochs == [1, 2, 3]
    assert [report["failed"] is None for report in slow.reports] == [True, True, False]


def test_trial_that_ray_ends_during_the_next_epoch_ends(slow: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def report(report: dict[str, Any], checkpoint: Any = None) -> None:
        slow.reports.append(report)
        if report["epoch"] == 2:
            raise SystemExit(0)

    monkeypatch.setattr(module.tune, "report", report)
    with pytest.raises(SystemExit):
        slow.run(**{"train.epochs": 6, "search.scheduler.grace_period": 6})
    assert slow.epochs == [1, 2]


def test_checkpoint_that_cannot_be_written_beside_training_is_an_error(slow: Worker) -> None:
    def store() -> None:
        time.sleep(0.05)
        if len(slow.reports) == 1:
            raise OSError("the disk is full")

    slow.storing = store
    with pytest.raises(OSError, match="the disk is full"):
        slow.run(**{"train.epochs": 6, "search.scheduler.grace_period": 6})


@pytest.mark.parametrize(("seed", "used"), [(None, 7), (1001, 1001), (0, 0)])
def test_trial_has_a_seed_of_its_own_or_that_of_all(worker: Worker, seed: int | None, used: int) -> None:
    worker.run(seed=seed)
    assert worker.attempts[0]["seed"] == used
    assert worker.attempts[0]["fit"] == (1, used)


def test_trial_goes_on_from_the_checkpoint_of_an_earlier_session(worker: Worker) -> None:
    worker.run(checkpoint=worker.checkpoint(2))
    assert worker.epochs == [3]


def test_newest_checkpoint_of_this_session_comes_before_that_of_an_earlier_one(worker: Worker) -> None:
    worker.newest = Path(worker.checkpoint(2, "newest"))
    worker.run(checkpoint=worker.checkpoint(1))
    assert worker.epochs == [3]


def test_trial_that_died_after_its_last_checkpoint_reports_it_and_trains_nothing(worker: Worker) -> None:
    worker.run(checkpoint=worker.checkpoint(3))
    assert worker.epochs == [3]
    assert worker.reports[0]["objective"] == pytest.approx(0.3)
    assert "from" not in worker.attempts[0]


# Running out of memory.


def test_trial_that_runs_out_of_memory_goes_on_in_twice_as_many_pieces_from_its_newest_checkpoint(
    worker: Worker,
) -> None:
    worker.script = [[None, OUT], [None, None, None]]
    worker.run()
    assert [attempt["accumulate"] for attempt in worker.attempts] == [1, 2]
    assert worker.attempts[1]["fit"] == (2, 7)
    assert [attempt["from"] for attempt in worker.attempts] == [0, 1]
    assert worker.epochs == [1, 2, 3]
    assert [report["failed"] for report in worker.reports] == [None] * 3


def test_second_attempt_before_any_checkpoint_goes_on_from_the_earlier_sessions(worker: Worker) -> None:
    worker.script = [[None, OUT], [None, None, None]]
    worker.run(checkpoint=worker.checkpoint(1))
    assert [attempt["from"] for attempt in worker.attempts] == [1, 1]
    assert worker.epochs == [2, 3]


def test_pieces_are_doubled_from_what_the_setting_says(worker: Worker) -> None:
    worker.script = [[OUT], [None, None, None]]
    worker.run(values={"train.accumulate": 8})
    assert [attempt["accumulate"] for attempt in worker.attempts] == [8, 16]


@pytest.mark.parametrize("error", [OUT, MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_second_attempt_is_made_once_and_its_failure_is_reported_with_advice(worker: Worker, error: Exception) -> None:
    worker.script = [[None, error], [None, error], [None, None, None]]
    worker.run()
    assert len(worker.attempts) == 2
    assert worker.epochs == [1, 0]
    failure = worker.reports[-1]
    assert failure["failed"].startswith("out of memory: A training step on a batch of 32 images")
    assert "in micro-batches of 16 (train.accumulate 2)" in failure["failed"]
    assert "train.accumulate to 4" in failure["failed"]
    assert failure["metrics"] == {}
    assert not failure["checkpoint"]
    assert failure["objective"] != failure["objective"]  # no number


def test_no_second_attempt_is_made_where_it_is_not_wanted(worker: Worker) -> None:
    worker.script = [[OUT]]
    worker.run(**{"search.retry_out_of_memory": False})
    assert len(worker.attempts) == 1
    assert "et train.accumulate to 2" in worker.reports[0]["failed"]


def test_no_second_attempt_is_made_where_twice_as_many_pieces_are_not_allowed(worker: Worker) -> None:
    worker.script = [[OUT]]
    worker.run(values={"train.accumulate": 33})
    assert len(worker.attempts) == 1
    assert worker.reports[0]["failed"].startswith("out of memory: ")


def test_trial_that_diverged_is_reported_with_its_epoch_and_not_tried_again(worker: Worker) -> None:
    worker.script = [[None, Diverged(2)]]
    worker.run()
    assert len(worker.attempts) == 1
    assert worker.epochs == [1, 2]
    said = worker.reports[-1]["failed"]
    assert said == "diverged: the training loss or a weight was not finite in epoch 2"


def test_trial_that_diverges_in_its_second_attempt_is_reported_as_that(worker: Worker) -> None:
    worker.script = [[None, OUT], [None, Diverged(2)]]
    worker.run()
    assert worker.reports[-1]["failed"].startswith("diverged: ")


@pytest.mark.parametrize("attempt", [0, 1])
@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x"), OSError(5)]
)
def test_other_errors_are_left_to_ray(worker: Worker, error: Exception, attempt: int) -> None:
    worker.script = [[None, OUT], [None, error]] if attempt else [[None, error]]
    with pytest.raises(type(error)):
        worker.run()
    assert len(worker.attempts) == attempt + 1
    assert worker.epochs == [1]


def test_memory_of_the_first_attempt_is_free_before_the_second(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception's traceback holds on to the frames, and so to the tensors, that it came from."""

    class Tensors(dict[str, Any]):
        pass

    alive: list[Any] = []

    def build(params: Params, data: Any, *, seed: int, weights: Any) -> Any:
        assert sys.exception() is None
        assert all(reference() is None for reference in alive)
        built = worker._build(params, data, seed=seed, weights=weights)
        built.model = Tensors()
        alive.append(weakref.ref(built.model))
        return built

    monkeypatch.setattr(module, "build_run", build)
    worker.script = [[torch.OutOfMemoryError("CUDA out of memory")], [None, None, None]]
    worker.run()
    assert len(alive) == 2


SLOW = {"search.constraints.max_latency_ms": 3.0}


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says how long a pass of the network takes, in milliseconds."""

    def take(milliseconds: float) -> list[str]:
        asked: list[str] = []
        monkeypatch.setattr(
            module, "measure_speed", lambda model, data, goals: asked.append("once") or {"latency_ms": milliseconds}
        )
        return asked

    return take


def test_trial_that_breaks_a_constraint_is_measured_and_not_trained(worker: Worker, takes: Any) -> None:
    takes(3.5)
    worker.run(**SLOW)
    (report,) = worker.reports
    assert report["measured"] == {"latency_ms": 3.5}
    assert report["infeasible"] == ("search.constraints.max_latency_ms: latency_ms is 3.5, allowed: at most 3")
    assert (report["epoch"], report["metrics"], report["failed"]) == (0, {}, None)


def test_trial_that_keeps_the_constraints_is_trained_after_it_was_measured(worker: Worker, takes: Any) -> None:
    takes(3.0)
    worker.run(**SLOW)
    assert worker.epochs == [0, 1, 2, 3]
    assert worker.reports[0]["infeasible"] is None
    assert "measured" not in worker.reports[1]


def test_control_is_trained_whatever_it_measures(worker: Worker, takes: Any) -> None:
    takes(99.0)
    worker.run(study=None, **SLOW)
    assert worker.epochs == [0, 1, 2, 3]


def test_trial_is_measured_once_in_its_life_and_only_where_it_is_asked_for(worker: Worker, takes: Any) -> None:
    asked = takes(99.0)
    worker.script = [[None] * 3 for _ in range(3)]
    worker.run()
    worker.newest = None
    worker.run(measured={"latency_ms": 2.0}, **SLOW)
    worker.newest = None
    worker.run(checkpoint=worker.checkpoint(1), **SLOW)
    assert asked == []
    assert worker.epochs == [1, 2, 3, 1, 2, 3, 2, 3]


def test_attention_is_scored_at_the_rungs_as_well_and_what_was_right_is_reported_there(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three epochs and a rung after the second one, for trials and controls alike."""
    monkeypatch.setattr(
        module, "score_attention", lambda model, data, goals: dict.fromkeys(goals.attention_metrics, 0.7)
    )
    worker.run(**{"search.choose.then": "val/attention/auroc", "search.scheduler.grace_period": 2, "train.epochs": 3})
    assert [report["metrics"].get("val/attention/auroc") for report in worker.reports] == [None, 0.7, 0.7]
    right = [report["scores"] and unpack_scores(report["scores"]).tolist() for report in worker.reports]
    assert right == [None, [True, True, False], [True, True, True, False]]
    assert worker.newest is not None
    assert json.loads((worker.newest / "sidecar").read_text())["scores"] == worker.reports[2]["scores"]


def test_attention_is_scored_after_the_last_epoch_and_kept_with_its_checkpoint(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        module, "score_attention", lambda model, data, goals: seen.append(model) or {"val/attention/jaccard": 0.4}
    )
    worker.run(**{"search.objectives": ["val/accuracy", "val/attention/jaccard"], "search.scheduler.name": "none"})
    assert seen == [worker.network]
    assert "val/attention/jaccard" not in worker.reports[1]["metrics"]
    assert worker.reports[2]["metrics"]["val/attention/jaccard"] == 0.4
    assert worker.newest is not None
    assert json.loads((worker.newest / "sidecar").read_text())["metrics"]["val/attention/jaccard"] == 0.4


def test_metrics_of_classes_are_reported_after_every_epoch_where_they_are_asked_for(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def score(probabilities: Any, data: Any, objectives: Any, params: Params) -> dict[str, float]:
        asked.append(probabilities)
        return {"val/macro_f1": 0.2 * probabilities}

    monkeypatch.setattr(module, "score_classes", score)
    worker.run(**{"search.choose.then": "val/macro_f1"})
    assert [report["metrics"]["val/macro_f1"] for report in worker.reports] == pytest.approx([0.2, 0.4, 0.6])
    assert asked == [1, 2, 3]
    worker.run(**{"search.choose.then": "val/loss"})
    assert asked == [1, 2, 3]
