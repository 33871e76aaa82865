"""benchmarks/search_quality.py: tables of others are read, epochs and regrets counted, and rivals are what they restate."""

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import curve_tables
import numpy as np
import pytest
import rivals
import search_quality
from curve_tables import BAD, GOOD, Problem, random_rows, read_foreign
from neps_search import ask_neps, nearest
from rivals import IEpoch, OptunaStudy, PausingASHA, StoppingASHA, i_epoch_knowing, play
from simulate import Table

from pipeline.tune.journal.records import VAL_ACCURACY
from pipeline.tune.schedulers import factory as schedulers
from pipeline.tune.space import SearchSpace

RANGES: dict[str, Any] = {
    "rate": {"type": "float", "low": 0.001, "high": 1.0, "log": True},
    "units": {"type": "int", "low": 2, "high": 64, "log": True},
    "layers": {"type": "int", "low": 1, "high": 4},
    "share": {"type": "float", "low": -1.0, "high": 3.0},
}


def write_table(path: Path, curves: Any, seed: int = 0) -> None:
    rng, rows = np.random.default_rng(seed), len(curves)
    units, layers = np.arange(rows) % 63 + 2, np.arange(rows) % 4 + 1
    settings = [10 ** rng.uniform(-3, 0, rows), units, layers, rng.uniform(-1, 3, rows)]
    content = {"names": list(RANGES), "ranges": json.dumps(RANGES), "curves": np.float32(curves)}
    np.savez(path, hp=np.stack(settings, axis=1), **content)


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    """60 settings of 9 epochs, better towards the middle of a rate, all but two of which go up."""
    path = tmp_path / "made-one.npz"
    write_table(path, np.zeros((60, 9)))
    points = read_foreign(path).points
    rng = np.random.default_rng(1)
    curves = 0.8 - ((points - 0.4) ** 2).sum(axis=1)[:, None] - 0.5 / np.arange(2, 11)
    curves += 0.03 * rng.standard_normal(curves.shape)
    curves[[7, 20], 2:] = math.nan
    write_table(path, curves)
    curve_tables.read_problem.cache_clear()
    return curve_tables.read_problem(path)


def of_two(first: list[float], second: list[float]) -> Problem:
    curves = np.array([first, second], dtype=np.float32)[:, None]
    space = SearchSpace("made", {"share": {"type": "float", "low": 0.0, "high": 1.0}}, {})
    points = np.array([[0.25], [0.75]])
    return Problem("made", "made", Table(space, [{"share": 0.25}, {"share": 0.75}], {VAL_ACCURACY: curves}, points))


def test_a_table_of_others_is_read_as_settings_of_a_space(tmp_path: Path) -> None:
    path = tmp_path / "taskset-one.npz"
    write_table(path, np.linspace(0.1, 0.9, 5 * 7).reshape(5, 7))
    with np.load(path) as stored:
        changed = {name: stored[name].copy() for name in stored.files}
    changed["hp"][0] = [1.0000001, 2, 4, -1.0]  # rounded out of its range
    np.savez(path, **changed)
    found = curve_tables.read_problem(path)
    assert (found.name, found.family, found.own) == ("taskset-one", "taskset", False)
    table = found.table
    assert (table.epochs, table.seeds, len(table.values)) == (7, 1, 5)
    assert table.values[0] == {"rate": 1.0, "units": 2, "layers": 4, "share": -1.0}
    assert isinstance(table.values[0]["units"], int)
    assert table.points[0] == pytest.approx([1.0, math.log(2.5 / 2) / math.log(65 / 2), 0.875, 0.0])
    assert table.curves[VAL_ACCURACY][2, 0].tolist() == pytest.approx(np.linspace(0.1, 0.9, 35)[14:21].tolist())
    assert table.best(0.2) == {4}


@pytest.mark.parametrize("wrong", ["missing", "rows", "names"])
def test_a_table_whose_arrays_do_not_fit_is_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "one.npz"
    write_table(path, np.zeros((5, 7)))
    with np.load(path) as stored:
        content = {name: stored[name] for name in stored.files}
    if wrong == "missing":
        del content["ranges"]
    elif wrong == "rows":
        content["curves"] = content["curves"][1:]
    else:
        content["names"] = content["names"][1:]
    np.savez(path, **content)
    with pytest.raises(ValueError, match="no ranges" if wrong == "missing" else "do not belong together"):
        read_foreign(path)


def test_random_draws_come_to_the_nearest_setting_that_is_left(problem: Problem) -> None:
    table, rng, left = problem.table, np.random.default_rng(3), set(range(60))
    for row, draw in zip(random_rows(table, 3), rng.random((60, 4)), strict=True):
        proposed = table.space.decode(table.space.value_at(draw.tolist()))
        assert row == table.nearest(proposed, but=set(range(60)) - left)
        left.remove(row)
    assert not left


def test_every_epoch_counts_until_the_better_one_of_two_settings_has_run_in_full() -> None:
    """The worse one first: stopped nowhere, it is held after 3 epochs; the better one after 6."""
    two = of_two([0.1, 0.2, 0.3], [0.2, 0.5, 0.8])
    choices = play(StoppingASHA(iter([0, 1]), 3, 1, 2), two.seen(0), 40)
    assert choices == [(3, 0), (6, 1)]
    assert two.outcome(choices, 0, 40) == (6.0, 6.0, 0.0, 0.0)
    # The best is 0.8, the median 0.55. After half of 8 epochs the worse one is held, twice as far off.
    assert two.outcome(choices, 0, 8) == pytest.approx((6.0, 6.0, 2.0, 0.0))
    # What is not found counts as the budget, and who holds nothing has the median.
    assert two.outcome(choices, 0, 5) == pytest.approx((5.0, 5.0, 1.0, 2.0))
    # Two workers train both at a time, so that both are held after all six epochs.
    assert play(StoppingASHA(iter([0, 1]), 3, 1, 2), two.seen(0), 40, workers=2) == [(5, 0), (6, 1)]


def test_the_worse_one_of_two_settings_is_stopped_or_waits() -> None:
    two = of_two([0.2, 0.5, 0.8], [0.1, 0.2, 0.3])
    assert play(StoppingASHA(iter([0, 1]), 3, 1, 2), two.seen(0), 40) == [(3, 0)]
    # Of one at a rung none is among the best half, so that the first one waits for the second.
    assert play(PausingASHA(iter([0, 1]), 3, 1, 3), two.seen(0), 40) == []
    # Rungs 1 and 2; one of two goes on at the first, none of one at the second.
    assert play(PausingASHA(iter([0, 1]), 3, 1, 2), two.seen(0), 40) == []
    assert play(PausingASHA(iter([0, 1]), 2, 1, 2), two.seen(0)[:, :2], 40) == [(3, 0)]


def test_a_budget_ends_everything_and_what_diverges_ends_itself() -> None:
    curves = np.array([[0.5, math.nan, 0.9], [0.1, 0.2, 0.3]])
    assert play(StoppingASHA(iter([0, 1]), 3, 5, 2), curves, 4) == []
    assert play(StoppingASHA(iter([0, 1]), 3, 5, 2), curves, 5) == [(5, 1)]


def test_priors_are_of_the_best_fifth_and_of_the_worse_half(problem: Problem) -> None:
    last = np.nan_to_num(problem.table.final(), nan=-1.0)
    ranks = {int(row): rank for rank, row in enumerate(np.argsort(-last, kind="stable"))}
    assert {ranks[problem.prior_row(GOOD, seed)] for seed in range(150)} == set(range(12))
    assert {ranks[problem.prior_row(BAD, seed)] for seed in range(400)} == set(range(30, 60))


def slow_stopping(rows: list[int], curves: Any, budget: int, first: int, factor: int) -> list[tuple[int, int]]:
    """Every trial to where it stops, with numpy's percentile of all values at a rung before it."""
    rungs = [first * factor**k for k in range(10) if first * factor**k < curves.shape[1]]
    values: dict[int, list[float]] = {rung: [] for rung in rungs}
    spent, held, best = 0, [], -math.inf
    for row in rows:
        for epoch in range(1, curves.shape[1] + 1):
            spent, value = spent + 1, curves[row, epoch - 1]
            if math.isnan(value) or spent > budget:
                break
            if epoch in rungs:
                before = list(values[epoch])
                values[epoch].append(value)
                if before and value < np.percentile(before, 100 * (1 - 1 / factor)):
                    break
        else:
            if value > best:
                best = value
                held.append((spent, row))
    return held


def slow_pausing(rows: list[int], curves: Any, budget: int, first: int, factor: int) -> list[tuple[int, int]]:
    """The paper's get_job by sorting everything anew, one worker."""
    rungs = [first * factor**k for k in range(10) if first * factor**k < curves.shape[1]] + [curves.shape[1]]
    at: dict[int, int] = {}  # the rung that a row is at
    seen: list[list[int]] = [[] for _ in rungs]
    todo, spent, held = list(rows), 0, []
    while True:
        job = None
        for rung in range(len(rungs) - 2, -1, -1):
            ranked = sorted(seen[rung], key=lambda row: (-curves[row, rungs[rung] - 1], seen[rung].index(row)))
            may = [row for row in ranked[: len(ranked) // factor] if at[row] == rung]
            if may:
                job = (may[0], rung + 1)
                break
        if job is None and todo:
            job = (todo.pop(0), 0)
        if job is None:
            return held
        row, rung = job
        begun = 0 if rung == 0 else rungs[rung - 1]
        trained = curves[row, begun : rungs[rung]]
        diverges = np.flatnonzero(np.isnan(trained))
        spent += int(diverges[0]) + 1 if len(diverges) else len(trained)
        if spent > budget:
            return held
        if len(diverges):
            at[row] = -1
            continue
        at[row] = rung
        seen[rung].append(row)
        if rung == len(rungs) - 1 and (not held or curves[row, -1] > curves[held[-1][1], -1]):
            held.append((spent, row))


def slow_i_epoch(rows: list[int], curves: Any, number: int) -> tuple[int, list[tuple[int, int]]]:
    """Three epochs for so many, and the best three in full."""
    best = sorted(rows[:number], key=lambda row: -curves[row, 2])[:3]
    spent, held = 3 * number, []
    for row in best:
        spent += curves.shape[1] - 3
        if not held or curves[row, -1] > curves[held[-1][1], -1]:
            held.append((spent, row))
    return spent, held


def random_curves(seed: int, *, diverging: bool) -> tuple[list[int], Any]:
    rng = np.random.default_rng(seed)
    worth = rng.random((80, 1))
    curves = worth - 0.4 / np.arange(1, 19) + 0.2 * rng.standard_normal((80, 18))
    if seed % 2:
        curves = curves.round(1)  # with many equal values
    if diverging:
        curves[rng.random(80) < 0.1, int(rng.integers(1, 18)) :] = math.nan
    return rng.permutation(80).tolist(), curves


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("first", "factor"), [(1, 4), (1, 3), (2, 2)])
def test_restated_asha_is_what_a_slow_restatement_does(seed: int, first: int, factor: int) -> None:
    rows, curves = random_curves(seed, diverging=seed % 3 == 0)
    for budget in (100, 360, 5000):
        found = play(StoppingASHA(iter(rows), 18, first, factor), curves, budget)
        assert found == slow_stopping(rows, curves, budget, first, factor)
        found = play(PausingASHA(iter(rows), 18, first, factor), curves, budget)
        assert found == slow_pausing(rows, curves, budget, first, factor)
    assert found


@pytest.mark.parametrize("seed", range(6))
def test_restated_i_epoch_is_what_a_slow_restatement_does(seed: int) -> None:
    rows, curves = random_curves(seed, diverging=False)
    expected, spent, full = [], 0, set()
    for number in (8, 16, 32, 64, 80):
        spent += 3 * (number - expected_number(number))
        for row in sorted(rows[:number], key=lambda row: -curves[row, 2])[:3]:
            if row not in full:
                spent, full = spent + 15, full | {row}
                if not expected or curves[row, -1] > curves[expected[-1][1], -1]:
                    expected.append((spent, row))
    assert play(IEpoch(iter(rows), 18, 8), curves, 5000) == expected
    knowing = i_epoch_knowing(iter(rows), curves, 5000)
    assert len(knowing) == 80 - 2
    for number, found in enumerate(knowing, start=3):
        spent, held = slow_i_epoch(rows, curves, number)
        assert found == (spent, held[-1][1])
    assert i_epoch_knowing(iter(rows), curves, 99) == knowing[: (99 - 45) // 3 - 2]


def expected_number(number: int) -> int:
    """Of settings that i-Epoch had before it came to so many."""
    return {8: 0, 80: 64}.get(number, number // 2)


class Watched:
    """A rival that writes down what it is asked and told."""

    def __init__(self, rival: rivals.Rival) -> None:
        self.rival, self.running, self.most, self.told = rival, set[int](), 0, []

    def next_job(self) -> tuple[int, int] | None:
        job = self.rival.next_job()
        if job is not None:
            self.running.add(job[0])
            self.most = max(self.most, len(self.running))
        return job

    def goes_on(self, row: int, epoch: int, value: float) -> bool:
        self.told.append((row, epoch))
        goes_on = self.rival.goes_on(row, epoch, value)
        if not goes_on or epoch == 18:
            self.running.discard(row)
        return goes_on


MAKE: dict[str, Callable[[Iterator[int]], rivals.Rival]] = {
    "stopping": lambda rows: StoppingASHA(rows, 18, 1, 3),
    "pausing": lambda rows: PausingASHA(rows, 18, 1, 3),
    "i-Epoch": lambda rows: IEpoch(rows, 18, 8),
}


@pytest.mark.parametrize("name", MAKE)
def test_four_workers_train_no_epoch_twice_and_no_more_than_four_settings_at_a_time(name: str) -> None:
    rows, curves = random_curves(5, diverging=False)
    watched = Watched(MAKE[name](iter(rows)))
    assert play(watched, curves, 250, workers=4)
    assert len(set(watched.told)) == len(watched.told) == 250
    assert watched.most <= 4
    for _, epochs in itertools.groupby(sorted(watched.told), key=lambda each: each[0]):
        trained = [epoch for _, epoch in epochs]
        assert trained == list(range(1, len(trained) + 1))


def test_optuna_learns_of_the_settings_that_its_proposals_were_moved_to(problem: Problem) -> None:
    import optuna

    study = OptunaStudy(problem.table, 0, optuna.pruners.MedianPruner())
    watched = Watched(study)
    assert play(watched, problem.seen(0), 180, workers=2)
    trials = [trial for trial in study._study.trials if trial.intermediate_values]
    assert len(trials) == len({row for row, _ in watched.told})
    for trial in trials:
        row = problem.table.nearest(trial.params)
        assert problem.table.values[row] == pytest.approx(trial.params)
        assert list(trial.intermediate_values.values()) == pytest.approx(
            problem.seen(0)[row, : len(trial.intermediate_values)].tolist()
        )


@pytest.mark.parametrize("workers", [1, 4])
def test_ours_spends_the_budget_on_a_table_of_others_and_is_told_the_prior(problem: Problem, workers: int) -> None:
    found = {
        name: search_quality.ours(settings, prior)(problem, 0, 9 * 8, workers)
        for name, (settings, prior) in search_quality.OURS.items()
    }
    assert all(found.values())
    assert all(spent <= 72 for choices in found.values() for spent, _ in choices)
    assert len({tuple(choices) for choices in found.values()}) > 1


@pytest.mark.parametrize("factor", [3, 4])
def test_ours_with_random_draws_holds_what_the_restated_asha_holds(
    problem: Problem, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until what is reserved for a whole run and what the budget has left begin to decide; with the paper's rungs."""
    monkeypatch.setattr(schedulers, "rung_epochs", lambda scheduler, first, epochs: rivals.rungs(first, factor, epochs))
    table = problem.table

    def draws(seed: int) -> Iterator[int]:
        tried: set[int] = set()
        for number in range(60):
            share = np.random.default_rng([seed, number]).random(4).tolist()
            tried.add(row := table.nearest(table.space.decode(table.space.value_at(share)), but=tried))
            yield row

    settings = {"search.sampler.name": "random", "search.scheduler.name": "asha"}
    rungs = {"search.scheduler.grace_period": 1, "search.scheduler.reduction_factor": float(factor)}
    for seed in range(4):
        found = search_quality.ours(settings | rungs)(problem, seed, 90, 1)
        restated = play(PausingASHA(draws(seed), 9, 1, factor), problem.seen(seed), 90)
        assert [each for each in found if each[0] <= 75] == [each for each in restated if each[0] <= 75]
        assert found[0][0] <= 75


def test_ratios_are_geometric_means_over_tables_of_mean_epochs_over_seeds() -> None:
    theirs = np.array([[[10.0, 20, 0, 0], [30, 20, 0, 0]], [[40, 40, 0, 0], [40, 40, 0, 0]]])
    mine = theirs * [0.5, 1, 1, 1]
    mine[1, :, 0] = 80
    first, second = search_quality.ratio(mine, theirs, ["one", "two"])
    assert first == pytest.approx((1.0, 1.0, 1.0))  # half and twice; every seed alike, and each table in its family
    assert second == pytest.approx((1.0, 1.0, 1.0))
    low, high = search_quality.ratio(mine, theirs, ["one", "one"])[0][1:]
    assert (low, high) == pytest.approx((0.5, 2.0))


def test_results_are_kept_and_not_made_again(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: dict[str, Any] = {}
    monkeypatch.setattr(search_quality, "keep", lambda name, content, compact: kept.update({name: json.dumps(content)}))
    begin = ["search_quality.py", "--tables", str(tmp_path), "--seeds", "2", "--at-a-time", "1", "--budget", "6"]
    monkeypatch.setattr("sys.argv", [*begin, "--only", "third"])
    search_quality.main()
    file = tmp_path / "kept.json"
    file.write_text(kept["search_quality_foreign"])
    found = json.loads(file.read_text())
    assert list(found) == [rivals.RAY, "ASHA of its paper, which pauses (1 and a third), random draws"]
    assert list(found[rivals.RAY]["1"]["made-one"]) == ["0", "1"]
    for name in ("NEPS", "OURS"):
        monkeypatch.setattr(search_quality, name, {})
    monkeypatch.setattr(search_quality, "RIVALS", {name: rivals.RIVALS[name] for name in found})
    monkeypatch.setattr(search_quality, "search", lambda *asked: 1 / 0)
    kept.clear()
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", [*begin, "--against", str(file)])
    search_quality.main()
    said, _ = capsys.readouterr()
    assert "| ASHA as Ray Tune sets it (1, a quarter), random draws | 1.00 (1.00 to 1.00) |" in said
    assert "1 tables, 2 seeds" in said


def test_neps_moves_a_proposal_to_the_nearest_row_that_is_left() -> None:
    points = np.array([[0.25, 0.1], [0.25, 0.9], [0.75, 0.1]])
    words = np.array([True, False])
    assert nearest(points, words, [2, None], [0.4, 0.2], {}) == 0
    assert nearest(points, words, [2, None], [0.4, 0.2], {"1": 0}) == 1  # another word is as far as a whole side
    assert nearest(points, words, [2, None], [1.0, 0.2], {}) == 2


FAKE_NEPS = """
class algorithms:
    hyperband = staticmethod(lambda space: space)

class Trial:
    def __init__(self, id, config):
        self.id, self.config = id, config

class AskAndTell:
    # The first setting to epoch 3 and then to 9, before the second, to epoch 9 at once, and so on.
    def __init__(self, space):
        self.names = [name for name in space if name != "epoch"]
        self.jobs = [("1_rung_0", 3), ("1_rung_1", 9), ("2_rung_1", 9), *((f"{n}_rung_0", 1) for n in range(3, 99))]
        self.seen = []

    def ask(self):
        id, epoch = self.jobs.pop(0)
        number = int(id.split("_")[0])
        before = next((trial for trial in self.seen if trial.id.startswith(f"{number}_")), None)
        config = {name: number / 100 for name in self.names} if before is None else before.config
        self.seen.append(Trial(id, {**config, "epoch": epoch}))
        return self.seen[-1]

    def tell(self, trial, result):
        assert set(result) == {"objective_to_minimize"}
"""


@pytest.mark.slow
def test_neps_is_asked_in_its_own_python_and_goes_on_from_where_a_setting_was_left(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "fake" / "neps"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE_NEPS)
    (package / "space.py").write_text("HPOFloat = HPOInteger = lambda *ends, **options: options\nSearchSpace = dict\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    (found,) = ask_neps(sys.executable, "hyperband", problem, [0], [None], 40, 1)
    points, seen = problem.table.points, problem.seen(0)
    first = int(np.argmin(((points - 0.01) ** 2).sum(axis=1)))
    second = nearest(points, np.zeros(4, dtype=bool), [None] * 4, [0.02] * 4, {"1": first})
    expected = [[9, first], [18, second]]
    assert found == (expected if seen[second, -1] > seen[first, -1] else expected[:1])
    with pytest.raises(RuntimeError, match="ended with 1"):
        ask_neps(sys.executable, "no_such_algorithm", problem, [0], [None], 40, 1)
