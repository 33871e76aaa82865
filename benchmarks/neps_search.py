"""Searches by NePS on a table. The upper half runs here, the lower half in the Python that has NePS, which needs
nothing of ours: it is sent the table as JSON, in the unit cube, and sends back what was held.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curve_tables import Choices, Problem

MINUTES = 60
"""That a call may take."""
CONFIDENCE = "medium"
"""Of a prior, in NePS' words: a normal with a standard deviation of half the range."""


def ask_neps(
    python: str,
    algorithm: str,
    problem: "Problem",
    seeds: Sequence[int],
    centers: Sequence[int | None],
    budget: int,
    workers: int,
) -> "Sequence[Choices]":
    """Search a table with every seed.

    Args:
        python: One that has NePS.
        algorithm: `hyperband` or `priorband`, of `neps.algorithms`.
        problem: The table.
        seeds: Of the searches.
        centers: For each of them the row that is told as the prior, if any.
        budget: In epochs.
        workers: That train side by side.

    Raises:
        RuntimeError: NePS failed; with what it said.
    """
    space = problem.table.space
    request = {
        "algorithm": algorithm,
        "points": problem.table.points.tolist(),
        "words": [spec["type"] == "categorical" for spec in space.dimensions.values()],
        "steps": [len(spec.get("choices", ())) or None for spec in space.dimensions.values()],
        "curves": [problem.seen(seed).tolist() for seed in seeds[: problem.table.seeds]],
        "seeds": list(seeds),
        "centers": list(centers),
        "budget": budget,
        "workers": workers,
    }
    command = [python, str(Path(__file__))]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, check=False, timeout=60 * MINUTES
    )
    if done.returncode:
        raise RuntimeError(f"NePS ({python}) ended with {done.returncode}: {done.stderr[-2000:]}")
    found: list[list[tuple[int, int]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def answer(request: dict[str, Any]) -> list[list[tuple[int, int]]]:
    """What NePS holds for the best with every seed, as (epochs spent, row)."""
    import random

    import numpy as np
    import torch

    found = []
    for number, (seed, center) in enumerate(zip(request["seeds"], request["centers"], strict=True)):
        random.seed(seed)
        np.random.seed(seed)  # what NePS draws from
        torch.manual_seed(seed)
        curves = np.array(request["curves"][number % len(request["curves"])], dtype=float)
        found.append(search(request, np.array(request["points"]), curves, center))
    return found


def search(request: dict[str, Any], points: Any, curves: Any, center: int | None) -> list[tuple[int, int]]:
    """One search. A proposal at an epoch is trained up to there, from where it was left if it was.

    A category, of which the point is the middle of its share of the unit interval, is an ordered number here.
    """
    import heapq

    import numpy as np

    neps: Any = import_module("neps")
    parts: Any = import_module("neps.space")

    length, words = curves.shape[1], np.array(request["words"])
    names = [f"x{column}" for column in range(points.shape[1])]
    prior = [None] * len(names) if center is None else points[center].tolist()
    elements = {
        name: parts.HPOFloat(0.0, 1.0, prior=value, prior_confidence=CONFIDENCE)
        for name, value in zip(names, prior, strict=True)
    }
    elements["epoch"] = parts.HPOInteger(1, length, is_fidelity=True)
    study = neps.AskAndTell(getattr(neps.algorithms, request["algorithm"])(parts.SearchSpace(elements)))
    rows: dict[str, int] = {}  # by the part of a trial's id that its rungs share
    trained: dict[str, int] = {}
    held: list[tuple[int, int]] = []
    due: list[tuple[int, int, Any, str, int]] = []
    spent, now, asked, best = 0, 0, 0, -np.inf
    while True:
        while len(due) < request["workers"] and (len(rows) < len(points)):
            trial = study.ask()
            config, epoch = str(trial.id).split("_")[0], int(trial.config["epoch"])
            if config not in rows:
                rows[config] = nearest(points, words, request["steps"], [trial.config[name] for name in names], rows)
                moved = dict(zip(names, points[rows[config]].tolist(), strict=True))
                trial.config = {**moved, "epoch": epoch}
            start = trained.get(config, 0)
            heapq.heappush(due, (now + 1, asked, trial, config, start + 1))
            asked += 1
        if not due:
            return held
        now, order, trial, config, epoch = heapq.heappop(due)
        row, spent = rows[config], spent + 1
        value = float(curves[row, epoch - 1])
        trained[config] = epoch
        if epoch == length and value > best:
            best = value
            held.append((spent, row))
        if spent >= request["budget"]:
            return held
        if epoch < int(trial.config["epoch"]) and value == value:
            heapq.heappush(due, (now + 1, order, trial, config, epoch + 1))
        else:
            study.tell(trial, {"objective_to_minimize": 1.0 - (value if value == value else 0.0)})


def nearest(
    points: Any, words: Any, steps: Sequence[int | None], proposed: Sequence[float], rows: dict[str, int]
) -> int:
    """The row nearest to a proposal that has not been tried."""
    import numpy as np

    middles = [
        share if count is None else (min(int(share * count), count - 1) + 0.5) / count
        for share, count in zip(proposed, steps, strict=True)
    ]
    differences = np.abs(points - np.array(middles))
    differences[:, words] = differences[:, words] > 1e-9
    distances = (differences**2).sum(axis=1)
    distances[list(rows.values())] = np.inf
    return int(np.argmin(distances))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules NePS does not mean
    print(json.dumps(answer(json.load(sys.stdin))))
