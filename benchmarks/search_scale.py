"""What a trial and a report cost the driver when a search has thousands of trials, without Ray and without training.

Run: python benchmarks/search_scale.py

The course, journal (on disk, synced after every line), study and stopping rule are the search's own; trials report
made-up accuracies at once, 16 side by side. Times are medians over the last tenth, beside those of the first 100.
There is no other side: the claim is that a trial costs no more as trials pile up.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from harness import header, keep, table

from pipeline.config import Params
from pipeline.tune.controller import SearchController, Wait
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import TrialRecord
from pipeline.tune.schedulers.scheduler import Decision
from pipeline.tune.space import load_space

ROOT = Path(__file__).parents[1]
SPACE = "search_spaces/sar_wide.yaml"
AT_A_TIME = 16
STEPS = ("propose", "report", "end")


def accuracy(record: TrialRecord, epoch: int) -> float:
    rate = record.values.get("train.lr", 0.002)
    decay = record.values.get("train.weight_decay", 0.3)
    return 0.95 - 0.1 * math.log10(rate / 0.004) ** 2 - 0.02 * math.log10(decay / 0.1) ** 2 - 0.3 / epoch


def spent(sampler: str, trials: int, folder: Path) -> dict[str, list[float]]:
    """Milliseconds by what they went to, in the order of the trials' starts (a report's: of its trial's end)."""
    settings = {
        "search.trials": trials,
        "search.budget.full_trainings": None,
        "search.sampler.name": sampler,
        "search.confirm.seeds": 0,
    }
    params = Params().with_values(settings, where="the benchmark")
    space = load_space(ROOT / SPACE, params, shown_as=SPACE)
    times: dict[str, list[float]] = defaultdict(list)
    with Journal(folder / "journal.jsonl", {}) as journal:
        course = SearchController(
            params, space, journal, [], fingerprint="scale", folder=folder, gpus=0.0, max_concurrent=AT_A_TIME
        )
        course.replay()
        at_work: dict[str, tuple[TrialRecord, int]] = {}
        while True:
            while len(at_work) < AT_A_TIME:
                started = time.perf_counter()
                record = course.next_trial()
                if record is None or isinstance(record, Wait):
                    break
                times["propose"].append(1000 * (time.perf_counter() - started))
                at_work[record.id] = (record, record.last_epoch)
            if not at_work:
                return times
            for name, (record, done) in list(at_work.items()):
                value = accuracy(record, done + 1)
                started = time.perf_counter()
                decision = course.report(name, done + 1, {"val/accuracy": value, "val/loss": 1 - value})
                times["report"].append(1000 * (time.perf_counter() - started))
                at_work[name] = (record, done + 1)
                if decision is not Decision.CONTINUE:
                    del at_work[name]
                    started = time.perf_counter()
                    course.release(name)
                    times["end"].append(1000 * (time.perf_counter() - started))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samplers", nargs="+", default=["random", "sobol", "tpe", "local_gp"])
    parser.add_argument("--trials", nargs="+", type=int, default=[100, 1000, 3000])
    asked = parser.parse_args()
    rows, kept = [], {}
    for sampler in asked.samplers:
        for trials in asked.trials:
            with tempfile.TemporaryDirectory(prefix="scale-") as folder:
                started = time.perf_counter()
                times = spent(sampler, trials, Path(folder))
                whole = time.perf_counter() - started
            late = {step: statistics.median(times[step][-max(10, len(times[step]) // 10) :]) for step in STEPS}
            early = {step: statistics.median(times[step][:100]) for step in STEPS}
            cells = [f"{early[step]:.2f} -> {late[step]:.2f}" for step in STEPS]
            rows.append((sampler, trials, *cells, f"{1000 * whole / trials:.1f}"))
            kept[f"{sampler} {trials}"] = {"first_100_ms": early, "last_tenth_ms": late, "s": round(whole, 2)}
            print(json.dumps({f"{sampler} {trials}": kept[f"{sampler} {trials}"]}), file=sys.stderr, flush=True)
    print(header("What a trial costs the driver, in milliseconds: the first 100 -> the last tenth", ["optuna", "ray"]))
    print(table(["sampler", "trials", "to propose one", "to take a report", "to end one", "in all, a trial"], rows))
    keep("search_scale", kept)


if __name__ == "__main__":
    main()
