"""Tables of recorded learning curves as problems for a search: the project's own, and those of a folder.

A table of others is an .npz with `hp` (settings, hyper-parameters), `names` of these, `ranges` (JSON by name: type
float or int, low, high, and log where the scale is logarithmic) and `curves` (settings, epochs): higher is better.
"""

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from harness import table as markdown
from numpy.typing import NDArray
from scipy import stats
from simulate import Table, make_table, read_table

from pipeline.config import Params
from pipeline.tune.dimension import Dimension
from pipeline.tune.journal.records import VAL_ACCURACY
from pipeline.tune.space import SearchSpace, load_space

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "benchmarks" / "tables" / "sar_wide_digits.npz"
SPACE = "search_spaces/sar_wide.yaml"
SHARES = (0.01, 0.05)
"""Of a table's settings, the best that are looked for."""
AFTER = (0.5, 1.0)
"""Of the budget, after which it is asked what is held."""
GOOD, BAD = "good", "bad"
"""Priors: a setting of the table's best fifth, and of its worse half."""

Choices = Sequence[tuple[int, int]]
"""Epochs spent, and the row of the table that is held for the best from then on."""


@dataclass(frozen=True)
class Problem:
    """A table to search.

    name: of its file. family: of several tables alike. own: whether its settings are parameters of params.yaml.
    """

    name: str
    family: str
    table: Table
    own: bool = False

    def prior_row(self, kind: str, seed: int) -> int:
        """The row of the setting that a search with this seed is told beforehand. kind: GOOD or BAD."""
        ranked = np.argsort(-_worst_if_nan(self.table.final()), kind="stable")
        among = ranked[: len(ranked) // 5] if kind == GOOD else ranked[len(ranked) // 2 :]
        return int(np.random.default_rng([seed, len(kind)]).choice(among))

    def seen(self, seed: int) -> NDArray[np.float64]:
        """The curves that a search with this seed sees, (settings, epochs); NaN once a setting has diverged."""
        return np.asarray(self.table.curves[VAL_ACCURACY][:, seed % self.table.seeds], dtype=np.float64)

    def outcome(self, choices: Choices, seed: int, budget: int) -> tuple[float, ...]:
        """What the choices of a search come to: epochs until a setting of each of SHARES was held, and regrets.

        The epochs are the budget where none was held within it. A regret is of what was held after each of AFTER, 0 for
        the best of the table and 1 for its median, which is also what a search that holds nothing yet has; where the
        table has several seeds, by those that the search has not seen.
        """
        epochs = []
        for share in SHARES:
            good = self.table.best(share)
            epochs.append(float(next((min(spent, budget) for spent, row in choices if row in good), budget)))
        unseen = [seed % self.table.seeds] if self.table.seeds > 1 else []
        worth = _worst_if_nan(self.table.final(but=unseen))
        best, middle = float(worth.max()), float(np.median(worth))
        held = [[row for spent, row in choices if spent <= after * budget] for after in AFTER]
        return (*epochs, *(float(best - worth[rows[-1]]) / (best - middle) if rows else 1.0 for rows in held))


@cache
def read_problem(path: Path) -> Problem:
    """The problem of a file, read once a process; RECORDED is the project's own table."""
    if path == RECORDED:
        space = load_space(ROOT / SPACE, Params(), shown_as=SPACE)
        return Problem("digits", "digits", read_table(path, space), own=True)
    return Problem(path.stem, path.stem.partition("-")[0], read_foreign(path))


def read_foreign(path: Path) -> Table:
    """A table of others. Values that rounding has put outside their range are moved to its end.

    Raises:
        ValueError: an array is missing, or they do not fit each other.
    """
    with np.load(path) as stored:
        if missing := {"hp", "names", "ranges", "curves"} - set(stored.files):
            raise ValueError(f"{path}: no {', '.join(sorted(missing))}; see benchmarks/curve_tables.py")
        settings, names, curves = stored["hp"], [str(name) for name in stored["names"]], stored["curves"]
        ranges: dict[str, Dimension] = json.loads(str(stored["ranges"]))
    if len(settings) != len(curves) or settings.shape[1:] != (len(names),) or set(names) - set(ranges):
        raise ValueError(
            f"{path}: hp {settings.shape}, curves {curves.shape}, {len(names)} names and {len(ranges)} ranges do not "
            "belong together"
        )
    space = SearchSpace(path.name, {name: ranges[name] for name in names}, {})
    inside = np.clip(settings, [ranges[name]["low"] for name in names], [ranges[name]["high"] for name in names])
    kinds = [int if ranges[name]["type"] == "int" else float for name in names]
    values = [{n: kind(v) for n, kind, v in zip(names, kinds, row, strict=True)} for row in inside.tolist()]
    return make_table(space, values, {VAL_ACCURACY: curves[:, None], "val/loss": 1 - curves[:, None]})


def random_rows(table: Table, seed: int) -> Iterator[int]:
    """All rows in the order in which random draws from the space come to them: each the nearest that is left."""
    draws = snap(table.space, np.random.default_rng(seed).random(table.points.shape))
    words = [spec["type"] == "categorical" for spec in table.space.dimensions.values()]
    taken: list[int] = []
    for draw in draws:
        differences = np.abs(table.points - draw)
        differences[:, words] = differences[:, words] > 1e-9
        distances = (differences**2).sum(axis=1)
        distances[taken] = np.inf
        taken.append(int(np.argmin(distances)))
        yield taken[-1]


def snap(space: SearchSpace, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of the unit cube, (N, dimensions), at the middles of the steps that they are in, where there are steps."""
    snapped = points.copy()
    for column, (spec, count) in enumerate(zip(space.dimensions.values(), space.steps().values(), strict=True)):
        if count is None:
            continue
        share = points[:, column]
        if spec.get("log", False):
            low, whole = spec["low"], (spec["high"] + 1) / spec["low"]
            value = np.minimum(np.floor(low * whole**share), spec["high"])
            snapped[:, column] = np.log((value + 0.5) / low) / np.log(whole)
        else:
            snapped[:, column] = (np.floor(share * count) + 0.5) / count
    return snapped


def _worst_if_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.nan_to_num(values, nan=float(np.nanmin(values)))


def describe(recorded: Table) -> None:
    """Print how well the table tells settings apart: all of them, and those that were trained again."""
    accuracy, mean = np.asarray(recorded.curves[VAL_ACCURACY], dtype=np.float64), recorded.final()
    last = accuracy[:, :, -1] - accuracy[:, :, -1].mean(axis=0)  # less what a seed gives to all settings
    most_seeds = max((len(values) for values in recorded.further.values()), default=0)
    groups = {
        "all settings": np.arange(len(mean)),
        "trained again": np.array(sorted(recorded.further)),
        "trained again most often": np.array([r for r, v in sorted(recorded.further.items()) if len(v) == most_seeds]),
    }
    rows = []
    for name, those in groups.items():
        seeds = np.array([recorded.seeds + len(recorded.further.get(row, ())) for row in those.tolist()])
        luck = float(last[those].std(axis=1, ddof=1).mean())
        again = [
            float(np.mean(recorded.further[row])) if row in recorded.further else math.nan for row in those.tolist()
        ]
        agree = "" if np.isnan(again).any() else f"{_rank(accuracy[those, :, -1].mean(axis=1), again):+.2f}"
        told = {path: _rank(recorded.points[those, i], mean[those]) for i, path in enumerate(recorded.space.dimensions)}
        most, second = sorted(told, key=lambda path: -abs(told[path]))[:2]
        shown = [f"{path.rpartition('.')[2]} {told[path]:+.2f}" for path in (most, second)]
        spreads = [100 * mean[those].std(), 100 * luck, 100 * luck * np.mean(seeds**-0.5)]
        counts = f"{seeds.min()} to {seeds.max()}"
        rows.append((name, len(those), counts, *(f"{spread:.2f}" for spread in spreads), agree, ", ".join(shown)))
    spread = ["points between means", "by seed", "by luck, of a mean"]
    print(markdown(["", "settings", "seeds", *spread, "first and further agree", "what tells most"], rows))
    loss = np.asarray(recorded.curves["val/loss"], dtype=np.float64)
    rungs = [epoch for epoch in (1, 2, 3, 4, 6, 8) if epoch <= recorded.epochs]
    others = [recorded.final(but=[seed]) for seed in range(recorded.seeds)]

    def told_by(curves: Any, epoch: int) -> float:
        return statistics.mean(_rank(curves[:, seed, epoch - 1], others[seed]) for seed in range(recorded.seeds))

    rows = [
        (name, *(f"{told_by(curves, epoch):.2f}" for epoch in rungs))
        for name, curves in (("accuracy", accuracy), ("minus loss", -loss))
    ]
    print(markdown(["rank correlation with the mean of other seeds", *map(str, rungs)], rows))


def _rank(one: Any, other: Any) -> float:
    return float(stats.spearmanr(one, other).statistic)
