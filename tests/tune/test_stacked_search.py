"""A search with the real Ray Tune whose confirmations are trained as stacks: results are those of single runs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.run_comparison import check_rounded_alike
from support.tiny_search import tiny_task

from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, SearchCallback, TrialRecord, read_history
from pipeline.tune.outcome import SearchOutcome
from pipeline.tune.ray.runner import run_search
from pipeline.tune.task import SearchTask

pytestmark = pytest.mark.slow

SETTINGS = {
    "search.trials": 1,
    "search.confirm.top": 1,
    "search.confirm.seeds": 2,
    "search.scheduler.name": "none",
    "search.keep_checkpoints": None,
    "model.kwargs": {"patch_size": 3, "embed_dim": 16, "depth": 1, "num_heads": 2},
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> SearchTask:
    """A trial and the controls, of three epochs each, and two confirmations of each of them."""
    return tiny_task(tmp_path_factory.mktemp("search"), SETTINGS)


def with_stacks(task: SearchTask, folder: str, together: int) -> SearchTask:
    params = task.params.with_values({"search.confirm.seeds_per_worker": together}, where="the test")
    return dataclasses.replace(task, params=params, folder=task.folder / folder)


@pytest.fixture(scope="module")
def alone(task: SearchTask) -> SearchOutcome:
    return run_search(with_stacks(task, "alone", 1), [])


def check_same(found: SearchOutcome, expected: SearchOutcome) -> None:
    assert [(t.id, t.state, t.seed, t.of) for t in found.trials] == [
        (t.id, t.state, t.seed, t.of) for t in expected.trials
    ]
    for mine, theirs in zip(found.trials, expected.trials, strict=True):
        for epoch in (1, 2, 3):
            check_rounded_alike(mine.epochs[epoch], theirs.epochs[epoch])


def confirmations(outcome: SearchOutcome) -> list[TrialRecord]:
    return [trial for trial in outcome.trials if trial.role == CONFIRMATION]


def test_confirmations_trained_together_have_the_metrics_of_single_runs(task: SearchTask, alone: SearchOutcome) -> None:
    stacked = with_stacks(task, "stacked", 2)
    found = run_search(stacked, [])
    check_same(found, alone)
    runs = confirmations(found)
    assert len(runs) == 6
    assert {run.state for run in runs} == {COMPLETE}
    first, second = runs[:2]
    assert first.metric("train/loss") != pytest.approx(second.metric("train/loss"), rel=2e-3)
    assert (stacked.folder / "journal.jsonl").read_text().count('"with"') == 3
    # Each has the files of a single run's checkpoint, in its part of the stack's.
    assert Path(second.checkpoint or "").name == second.id
    single = next(run for run in confirmations(alone) if run.id == second.id)
    assert names_in(second) == names_in(single) == {"weights.safetensors", "state.pt", "checkpoint.json"}
    for run in runs:
        mine, theirs = (outcome.scores.at(run.id, 3) for outcome in (found, alone))
        assert mine is not None
        assert theirs is not None
        assert np.mean(mine == theirs) > 0.9
    assert sum(trial.busy_s for trial in found.trials) < found.spent.seconds  # one worker at a time
    assert first.busy_s == pytest.approx(second.busy_s, abs=0.1)


def names_in(run: TrialRecord) -> set[str]:
    assert run.checkpoint is not None
    return {path.name for path in Path(run.checkpoint).iterdir() if not path.name.startswith(".")}


class Dies(SearchCallback):
    """The driver's end, after the second epoch of a confirmation."""

    def replayed(self) -> None: ...
    def trial_started(self, trial: TrialRecord) -> None: ...
    def ending_early(self, reason: str, running: int, left: int) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...
    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        if (trial.id, epoch) == ("baseline-seed1002", 2):
            raise RuntimeError("the driver dies")


def test_search_killed_with_confirmations_in_a_stack_resumes_with_single_ones(
    task: SearchTask, alone: SearchOutcome
) -> None:
    broken = with_stacks(task, "broken", 2)
    with pytest.raises(Exception, match="the driver dies"):
        run_search(broken, [Dies()])
    left = read_history(broken.folder / "journal.jsonl").trials
    assert left["baseline-seed1001"].state is left["baseline-seed1002"].state is None
    assert left["baseline-seed1002"].last_epoch == 2
    check_same(run_search(with_stacks(task, "broken", 1), []), alone)
    lines = (broken.folder / "journal.jsonl").read_text().splitlines()
    # The first epoch left a checkpoint, so that it was not trained again.
    assert sum('"epoch": 1,' in line and '"baseline-seed1002"' in line for line in lines) == 1
