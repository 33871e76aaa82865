"""A search with the real Ray Tune and Optuna, on a setting that trains in seconds."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from checkout import TINY, Checkout

from pipeline.config import Params
from pipeline.data.sources import read_digits
from pipeline.data.splits import make_split, write_split
from pipeline.data.store import open_prepared
from pipeline.data.writing import write_prepared
from pipeline.tune.ledger import TrialRecord
from pipeline.tune.results import write_results
from pipeline.tune.runner import Resources, SearchOutcome, SearchTask, run_search
from pipeline.tune.space import load_space

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> SearchTask:
    """Four trials of three epochs, one after the other."""
    folder = tmp_path_factory.mktemp("search")
    params = Params().with_values(TINY | {"search.trials": 4, "search.sampler.startup_trials": 1}, where="the test")
    write_prepared(read_digits(12), folder / "prepared")
    prepared = open_prepared(folder / "prepared")
    split = make_split(prepared.labels, val_fraction=0.6, test_fraction=0.4, seed=0)
    write_split(split, folder / "split.json", data_hash=prepared.data_hash, seed=0)
    return SearchTask(
        params=params,
        space=load_space(ROOT / "search_spaces" / "sar.yaml", params, shown_as="sar.yaml"),
        fingerprint="f" * 64,
        folder=folder / "state",
        prepared=folder / "prepared",
        split=folder / "split.json",
        resources=Resources(cpus=1, gpus=0.0, at_a_time=1, machine_cpus=1, machine_gpus=0),
    )


def _trials(task: SearchTask, folder: str, trials: int) -> SearchOutcome:
    params = task.params.with_values({"search.trials": trials}, where="the test")
    return run_search(dataclasses.replace(task, params=params, folder=task.folder / folder), [])


def _told(trials: list[TrialRecord]) -> list[Any]:
    """All that a search found out, but for the time that it took."""
    return [
        (t.id, t.values, t.state, {e: {k: v for k, v in m.items() if k != "seconds"} for e, m in t.epochs.items()})
        for t in trials
    ]


@pytest.fixture(scope="module")
def at_once(task: SearchTask) -> SearchOutcome:
    return _trials(task, "at-once", 4)


def test_search_runs_controls_to_the_end_and_every_trial_asked_for(at_once: SearchOutcome) -> None:
    ids = [trial.id for trial in at_once.trials]
    assert ids == ["baseline", "paper", "t0000", "t0001", "t0002", "t0003"]
    for trial in at_once.trials:
        assert trial.state in ("complete", "pruned")
        assert sorted(trial.epochs) == list(range(1, trial.last_epoch + 1))
        assert (trial.last_epoch == 3) == (trial.state == "complete")
    assert [trial.state for trial in at_once.trials if trial.control] == ["complete", "complete"]


def test_search_extended_from_two_trials_gives_bit_for_bit_what_four_at_once_give(
    task: SearchTask, at_once: SearchOutcome, tmp_path: Path
) -> None:
    _trials(task, "extended", 2)
    extended = _trials(task, "extended", 4)
    assert _told(list(extended.trials)) == _told(list(at_once.trials))
    for name, outcome in (("a", at_once), ("b", extended)):
        write_results(task, outcome, tmp_path / name)
    for file in ("trials.csv", "curves.csv", "best.yaml"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_search_that_has_more_trials_than_asked_for_answers_with_the_first(
    task: SearchTask, at_once: SearchOutcome
) -> None:
    fewer = _trials(task, "at-once", 2)
    assert _told(list(fewer.trials)) == _told(list(at_once.trials)[:4])
    assert fewer.proposer.proposed == 2


def test_search_killed_again_and_again_ends_as_an_unharmed_one(tmp_path: Path) -> None:
    """Real stages in two clones; in one, the search is killed in the middle until it gets through."""
    settings: Mapping[str, Any] = TINY | {
        "search.trials": 4,
        "search.max_concurrent_trials": 1,
        "train.epochs": 8,
        "search.scheduler.grace_period": 2,
        "tracking.attention_images": 0,
    }
    clones = []
    for name in ("unharmed", "killed"):
        (tmp_path / name).mkdir()
        checkout = Checkout(tmp_path / name, settings)
        checkout.repro("split")
        clones.append(checkout)
    unharmed, killed = clones
    stage = [sys.executable, "-m", "pipeline.stages.search"]
    assert unharmed.run(*stage).returncode == 0
    for kill_after in (1, 9, 20):
        process = subprocess.Popen(
            stage,
            cwd=killed.root,
            env={**os.environ, "PYTHONPATH": str(killed.root)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while _epochs(killed) < kill_after and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(3)  # Ray's own processes notice that their driver is gone
    done = killed.run(*stage)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on from the ledger" in done.stdout
    for file in ("trials.csv", "best.yaml"):
        assert (killed.root / "results/search" / file).read_text() == (
            unharmed.root / "results/search" / file
        ).read_text()


def _epochs(checkout: Checkout) -> int:
    ledgers = list(checkout.root.glob("state/searches/*/ledger.jsonl"))
    if not ledgers:
        return 0
    lines = [line for line in ledgers[0].read_text().splitlines() if line.endswith("}")]
    return sum(json.loads(line)["event"] == "epoch" for line in lines)
