"""What must hold once a search that was killed again and again has ended: of its journal, of MLflow, of its tables."""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.tracking.pending import legal_name
from pipeline.tracking.store import client, resolve_store
from pipeline.tune.journal.records import TrialRecord

TABLES = ("trials.csv", "curves.csv", "best.yaml")


@dataclass
class Findings:
    """repeated: epochs that were reported again, since a kill came between their report and their checkpoint."""

    runs: int = 0
    epochs: int = 0
    repeated: int = 0
    violations: list[str] = field(default_factory=list)

    def expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.violations.append(otherwise)


@dataclass
class _Life:
    """A trial's, by the events of the journal: epoch of its last report and of its last checkpoint."""

    reported: int = 0
    saved: int = 0
    ended: bool = False
    by_epoch: dict[int, dict[str, float]] = field(default_factory=dict)


def verify_ledger(events: Sequence[Mapping[str, Any]], found: Findings) -> None:
    """Everything that was started has ended once, and no epoch at or before a checkpoint was trained again."""
    lives: dict[str, _Life] = {}
    at_work: set[str] = set()
    for event in events:
        kind, name = event["event"], str(event.get("trial"))
        if kind == "session":
            at_work = set()
        if kind in ("search", "session", "accepted"):
            continue
        if kind == "started":
            found.expect(name not in lives, f"{name}: started twice")
            lives[name] = _Life()
        life = lives[name]
        found.expect(not life.ended, f"{name}: {kind} after its end")
        if kind in ("started", "resumed"):
            found.expect(name not in at_work, f"{name}: {kind} while it is at work")
            at_work.add(name)
        elif kind == "epoch":
            _verify_epoch(name, life, int(event["epoch"]), event["metrics"], found)
        elif kind == "checkpoint":
            life.saved = life.reported
        elif kind == "paused":
            at_work.discard(name)
        elif kind == "dropped":
            life.saved = 0
        elif kind == "ended":
            life.ended = True
    found.runs, found.epochs = len(lives), sum(len(life.by_epoch) for life in lives.values())
    for name, life in lives.items():
        found.expect(life.ended, f"{name}: never ended")
        found.expect(sorted(life.by_epoch) == list(range(1, len(life.by_epoch) + 1)), f"{name}: epochs with a gap")


def _verify_epoch(name: str, life: _Life, epoch: int, metrics: Mapping[str, float], found: Findings) -> None:
    found.expect(epoch > life.saved, f"{name}: epoch {epoch} trained again, with a checkpoint of epoch {life.saved}")
    told = {key: value for key, value in metrics.items() if key != "seconds"}
    if epoch in life.by_epoch:
        found.repeated += 1
        found.expect(life.by_epoch[epoch] == told, f"{name}: epoch {epoch}, repeated, came to other values")
    life.by_epoch[epoch] = told
    life.reported = epoch


def verify_tracking(database: Path, records: Mapping[str, TrialRecord], found: Findings) -> None:
    """MLflow has one parent, one run a trial, none running, and the journal's values, each step once."""
    mlflow = client(resolve_store(f"sqlite:///{database}", database.parent))
    runs: list[Any] = []
    for experiment in mlflow.search_experiments():
        runs += mlflow.search_runs([experiment.experiment_id], max_results=10_000)
    for run in runs:
        found.expect(run.info.status in ("FINISHED", "FAILED"), f"MLflow: {run.info.run_name} is {run.info.status}")
    parents = [run for run in runs if run.data.tags.get("sar.kind") == "search"]
    found.expect(len(parents) == 1, f"MLflow: {len(parents)} runs of the search")
    trials = [run for run in runs if "sar.trial" in run.data.tags]
    counted = Counter(run.data.tags["sar.trial"] for run in trials)
    found.expect(set(counted) == set(records), f"MLflow: other trials: {sorted(set(counted) ^ set(records))}")
    for name, count in counted.items():
        found.expect(count == 1, f"MLflow: {count} runs of {name}")
    for run in trials:
        name, under = run.data.tags["sar.trial"], run.data.tags.get("mlflow.parentRunId")
        found.expect(under == parents[0].info.run_id, f"MLflow: {name} lies under another run")
        if name in records:
            found.expect(run.data.tags.get("sar.state") == records[name].state, f"MLflow: {name} ended otherwise")
            _verify_metrics(mlflow, run, records[name], found)


def _verify_metrics(mlflow: Any, run: Any, record: TrialRecord, found: Findings) -> None:
    expected: dict[str, dict[int, float]] = {}
    for epoch, metrics in record.epochs.items():
        for name, value in metrics.items():
            if math.isfinite(value):
                expected.setdefault(legal_name(name), {})[epoch] = value
    # What an epoch used of the machine is no result, and differs from run to run.
    logged = {name for name in run.data.metrics if not name.startswith("system/")}
    found.expect(logged == set(expected), f"MLflow: {record.id} has other metrics")
    for name in set(run.data.metrics) & set(expected):
        points = mlflow.get_metric_history(run.info.run_id, name)
        steps = Counter(point.step for point in points)
        twice = [step for step, count in steps.items() if count > 1]
        found.expect(not twice, f"MLflow: {record.id} has {name} twice at {twice}")
        same = {point.step: point.value for point in points} == expected[name]
        found.expect(same, f"MLflow: {record.id} has other values of {name} than the journal")


def verify_tables(results: Path, unharmed: Path, found: Findings, *, exactly: bool) -> None:
    """The tables have as many rows, by role, as an unharmed search's; or are the same bytes."""
    for name in TABLES:
        found.expect((results / name).is_file(), f"{name}: missing")
    if found.violations:
        return
    mine, theirs = (_by_role(folder) for folder in (results, unharmed))
    if not exactly:
        # How many trials are near the best, and are confirmed, hangs on which results the sampler had when it proposed.
        found.expect(mine.pop("confirmation", 0) > 0, "trials.csv: no confirmations")
        theirs.pop("confirmation", None)
    found.expect(mine == theirs, f"trials.csv: {dict(mine)} rows by role, unharmed {dict(theirs)}")
    with (results / "curves.csv").open(newline="") as file:
        rows = sum(1 for _ in csv.DictReader(file))
    found.expect(rows == found.epochs, f"curves.csv: {rows} rows for {found.epochs} epochs")
    for name in TABLES if exactly else ():
        same = (results / name).read_bytes() == (unharmed / name).read_bytes()
        found.expect(same, f"{name}: differs from the unharmed search's")


def _by_role(folder: Path) -> Counter[str]:
    with (folder / "trials.csv").open(newline="") as file:
        return Counter(row["role"] for row in csv.DictReader(file))
