"""Kills of everything that a search consists of, at random moments, until it gets through; then a look at what it has.

Run: python benchmarks/kill_search.py --kills 50 --trials 30 --seed 0

A clone of this checkout searches with a tiny network by the real commands. Each kill has a phase, which they take in
turn, and within it a random moment: the start with its imports, the replay of the journal, the first epochs after it,
when a trial is paused, the middle, the confirmations, the end when results are written. And each has a victim: a
worker that trains, the stage, the command that started it (DVC or `sar-search`), all of them by an interruption,
Ray's raylet or its store.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import header, keep, table
from kills.clone import COMMAND, DVC, GCS, RAYLET, STAGE, WORKER, Clone
from kills.series import ALL, Series
from kills.verify import Findings, verify_ledger, verify_tables, verify_tracking

from pipeline.tune.journal.records import read_history

SHOWN = {
    WORKER: "a worker that trains",
    STAGE: "the stage",
    DVC: "`dvc`",
    COMMAND: "`sar-search`",
    ALL: "the terminal's group",
    RAYLET: "Ray's raylet",
    GCS: "Ray's control store",
}


def settings(trials: int, epochs: int, at_a_time: int) -> dict[str, Any]:
    """The smallest network in which everything has its part."""
    return {
        "model.kwargs": {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2},
        "train.epochs": epochs,
        "search.trials": trials,
        "search.budget.full_trainings": None,
        "search.max_concurrent_trials": at_a_time,
        # Half of the trials go on from where they are paused, so that many are.
        "search.scheduler": {"name": "asha", "grace_period": 2, "reduction_factor": 2.0},
        "search.checkpoint_every": 1,
        # A trial may lose its worker again and again here, and must get through all the same.
        "search.max_failures": 20,
        "tracking.attention_images": 2,
    }


@dataclass
class Outcome:
    """kills: by (victim, signal). wall_s, unharmed_s: of the search, all sessions, and of the one left alone."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    refusals: int = 0
    torn: int = 0
    wall_s: float = 0.0
    unharmed_s: float = 0.0
    found: Findings = field(default_factory=Findings)


def run_series(
    folder: Path,
    *,
    kills: int,
    trials: int,
    epochs: int,
    at_a_time: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> Outcome:
    """A search left alone, the same one killed `kills` times, and the comparison of both. folder: an empty one."""
    unharmed = Clone(folder / "unharmed", settings(trials, epochs, at_a_time))
    if unharmed.run(["dvc", "repro", "split"]):
        raise SystemExit(f"the clone cannot be prepared: {unharmed.log.read_text()[-2000:]}")
    harmed = unharmed.copy(folder / "harmed")
    started = time.monotonic()
    if unharmed.run(["dvc", "repro", "search"]):
        raise SystemExit(f"the search fails unharmed: {unharmed.log.read_text()[-2000:]}")
    outcome = Outcome(unharmed_s=time.monotonic() - started)
    say(f"unharmed: {outcome.unharmed_s:.0f} s")

    started = time.monotonic()
    series = Series(harmed, random.Random(seed), say)
    series.run(kills, trials=trials, like=unharmed)
    outcome.wall_s = time.monotonic() - started
    outcome.kills, outcome.phases = series.kills, series.phases
    outcome.refusals, outcome.torn = series.refusals, series.torn
    outcome.sessions = series.tail.count("session")
    found = outcome.found
    found.violations += series.violations
    verify_ledger(series.tail.events, found)
    assert series.tail.path is not None
    records = read_history(series.tail.path).trials
    verify_tracking(harmed.root / "mlflow.db", records, found)
    results = Path("results") / "search"
    verify_tables(harmed.root / results, unharmed.root / results, found, exactly=at_a_time == 1)
    return outcome


def report(outcome: Outcome, trials: int) -> str:
    """The tables that are printed."""
    kills = [(SHOWN[victim], name, count) for (victim, name), count in sorted(outcome.kills.items())]
    found = outcome.found
    over = outcome.wall_s - outcome.unharmed_s
    rows = [
        ("kills", sum(outcome.kills.values())),
        ("by phase", ", ".join(f"{name} {count}" for name, count in outcome.phases.items())),
        ("sessions that opened the journal", outcome.sessions),
        ("starts refused while a stage lived on (status 2)", outcome.refusals),
        ("starts at which half a dvc.lock was mended", outcome.torn),
        ("trials asked for; runs with controls and confirmations", f"{trials}; {found.runs}"),
        ("epochs", found.epochs),
        ("epochs reported twice", found.repeated),
        ("wall time, all sessions", f"{outcome.wall_s:.0f} s"),
        ("wall time of the unharmed search", f"{outcome.unharmed_s:.0f} s"),
        ("what the kills cost", f"{over:.0f} s, {over / max(1, sum(outcome.kills.values())):.1f} s a kill"),
        ("violations", len(found.violations)),
    ]
    return "\n\n".join([table(["victim", "signal", "kills"], kills), table(["", ""], rows)])


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("kills", 50), ("trials", 30), ("epochs", 4), ("at-a-time", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="an empty folder to work in and to leave as it is")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run_series(
            folder,
            kills=asked.kills,
            trials=asked.trials,
            epochs=asked.epochs,
            at_a_time=asked.at_a_time,
            seed=asked.seed,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    together = f"{asked.at_a_time} at a time, seed {asked.seed}"
    print(header(f"{asked.kills} kills of one search of {asked.trials} trials, {together}", ["ray", "mlflow", "dvc"]))
    print(report(outcome, asked.trials))
    for violation in outcome.found.violations:
        print(f"violation: {violation}")
    kills = {f"{victim} {name}": count for (victim, name), count in outcome.kills.items()}
    keep("kill_search", {"kills": kills, "repeated": outcome.found.repeated, "violations": outcome.found.violations})
    sys.exit(bool(outcome.found.violations))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
