"""What a trial costs beyond its training: in our search, in a process of its own, and in a Ray Tune that does nothing.

Run: python benchmarks/search_overhead.py

The search is the stage's: journal, study, scheduler, MLflow and progress included, over trials of one epoch of a tiny
network. The other sides are a process a trial, begun anew and, its best, forked from one that has imported everything;
and Ray Tune at its best: actors reused, a function that only reports, its own files of results turned off. A side's
overhead is the time for which its workers were taken, less the epochs' own seconds, by trial. Trials count from the
moment when every worker has had one: what comes before, Ray's start and the workers' imports, is paid once a search and
stands apart.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import header, keep, table
from kills.clone import Clone
from ray import tune
from rich.console import Console

from pipeline.cluster.runtime import local_ray
from pipeline.compute.limits import usable_cpus
from pipeline.preflight.plan import make_plan
from pipeline.stages.search.mlflow_callback import MlflowCallback
from pipeline.stages.search.search_progress import SearchProgress
from pipeline.tune.journal.records import TrialRecord
from pipeline.tune.ray.runner import run_search
from pipeline.workspace import find_workspace

SETTINGS = {
    "model.kwargs": {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "train.epochs": 1,
    "train.warmup_epochs": 0,
    "search.scheduler.name": "none",
    "search.budget.full_trainings": None,
    "search.confirm.seeds": 0,
}

ALONE = """
import sys
from pathlib import Path
from pipeline.assembly import build_run, load_data, train_run
from pipeline.config import load_params
import torch
root = Path(sys.argv[1])
params = load_params(root / "params.yaml")
torch.set_num_threads(1)
data = load_data(root / "data" / "prepared", root / "data" / "split.json", params.base.device)
run = build_run(params, data, seed=0)
epochs = train_run(run, params, data, seed=0)
print(sum(epoch.metrics["seconds"] for epoch in epochs))
"""

FORKING = f"""
import os, sys, time, timm, torchvision
import pipeline.assembly, pipeline.config
code = compile({ALONE!r}, "trial", "exec")
for _ in range(int(sys.argv[2])):
    started = time.perf_counter()
    reading, writing = os.pipe()
    if not os.fork():
        os.dup2(writing, 1)
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with open(reading) as said:
        trained = float(said.read())
    os.wait()
    print(time.perf_counter() - started - trained, flush=True)
"""


@dataclass
class Side:
    """Seconds. overhead: of a worker, by trial. startup: once, before the trials that count. trials: that count."""

    overhead: float
    startup: float
    trials: int


@dataclass
class Clock:
    """A listener that notes when trials start and end, and how long they trained."""

    began: float = field(default_factory=time.perf_counter)
    ends: list[float] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)

    def replayed(self) -> None: ...
    def trial_started(self, trial: TrialRecord) -> None: ...
    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None: ...

    def trial_paused(self, trial: TrialRecord) -> None: ...
    def ending_early(self, reason: str, running: int, left: int) -> None: ...

    def trial_ended(self, trial: TrialRecord) -> None:
        self.ends.append(time.perf_counter())
        self.trained.append(trial.seconds)

    def side(self, at_a_time: int) -> Side:
        """The figures, of all trials but the first of every worker."""
        taken = at_a_time * (self.ends[-1] - self.ends[at_a_time - 1])
        counted = len(self.ends) - at_a_time
        startup = self.ends[at_a_time - 1] - self.began - max(self.trained[:at_a_time])
        return Side((taken - sum(self.trained[at_a_time:])) / counted, startup, counted)


def our_search(folder: Path, trials: int, at_a_time: int) -> Side:
    """The stage's own search."""
    clone = Clone(folder, SETTINGS | {"search.trials": trials, "search.max_concurrent_trials": at_a_time})
    if clone.run(["dvc", "repro", "split"]):
        raise SystemExit(clone.log.read_text()[-2000:])
    plan = make_plan(find_workspace(folder))
    task = plan.task()
    quiet = Console(file=io.StringIO())
    with MlflowCallback(plan, task) as tracked, SearchProgress(trials + 2, 1, console=quiet) as progress:
        clock = Clock()
        run_search(task, [tracked, progress, clock])
    return clock.side(at_a_time)


def fresh_processes(folder: Path, trials: int) -> Side:
    """A process a trial, one after the other."""
    over = []
    for _ in range(trials):
        started = time.perf_counter()
        command = [sys.executable, "-c", ALONE, str(folder)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
        over.append(time.perf_counter() - started - float(said))
    return Side(sum(over) / trials, 0.0, trials)


def forked_processes(folder: Path, trials: int) -> Side:
    """A process a trial, forked from one in which everything has been imported and nothing run."""
    command = [sys.executable, "-c", FORKING, str(folder), str(trials)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, timeout=600)
    over = [float(line) for line in done.stdout.split()]
    return Side(sum(over) / trials, 0.0, trials)


def _nothing(config: Mapping[str, Any]) -> None:
    tune.report({"objective": config["x"]})


class _Ends(tune.Callback):  # type: ignore[misc]
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._clock.ends.append(time.perf_counter())
        self._clock.trained.append(0.0)


def bare_ray(folder: Path, trials: int, at_a_time: int) -> Side:
    """Ray Tune as its documentation has it, with reuse_actors and a function that only reports."""
    clock = Clock()
    with local_ray(usable_cpus(), 0):
        tune.Tuner(
            tune.with_resources(_nothing, {"CPU": 1}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=at_a_time, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=str(folder), callbacks=[_Ends(clock)], verbose=0),
        ).fit()
    return clock.side(at_a_time)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=20)
    asked = parser.parse_args()
    kept: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory(prefix="overhead-") as temporary:
        base = Path(temporary)
        together = usable_cpus()
        sides: dict[str, Callable[[], Side]] = {
            "our search, one trial at a time": lambda: our_search(base / "one", asked.trials, 1),
            f"our search, {together} at a time": lambda: our_search(base / "many", asked.trials, together),
            "a fresh process a trial": lambda: fresh_processes(base / "one", 5),
            "the same, forked after the imports": lambda: forked_processes(base / "one", 5),
            "bare Ray Tune, one at a time": lambda: bare_ray(base / "ray-one", asked.trials, 1),
            f"bare Ray Tune, {together} at a time": lambda: bare_ray(base / "ray-many", asked.trials, together),
        }
        for name, work in sides.items():
            side = work()
            rows.append((name, side.trials, f"{side.overhead:.2f} s", f"{side.startup:.1f} s" if side.startup else "-"))
            kept[name] = {"overhead_s": round(side.overhead, 3), "startup_s": round(side.startup, 2)}
            print(json.dumps({name: kept[name]}), file=sys.stderr, flush=True)
    print(header("What a trial costs beyond its training", ["ray", "torch", "mlflow"]))
    print(table(["", "trials", "overhead a trial", "start-up, once"], rows))
    keep("search_overhead", kept)


if __name__ == "__main__":
    main()
