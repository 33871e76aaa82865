"""Claims about searches on recorded curves: every sampler with every scheduler, in simulated time, and gone on with."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import curve_tables
import numpy as np
import pytest
from simulate import Simulation, Table, UnwrittenLedger, make_table, simulate
from support.simulated_search import Kill, told

from pipeline.config import Params
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL, FAILED, METHOD, PRUNED, TrialRecord
from pipeline.tune.selection.confirm import FIRST_SEED
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.samplers import check_sampler

LR, WEIGHT, LAYERS, BATCH = (
    "train.lr",
    "regularizer.spatial_entropy.weight",
    "regularizer.spatial_entropy.layers",
    "train.batch_size",
)
CONTROLS = {"baseline": {WEIGHT: 0.0}}
NUMBERS: Mapping[str, Any] = {
    WEIGHT: {"type": "float", "low": 0.003, "high": 1.0, "log": True},
    LR: {"type": "float", "low": 0.0005, "high": 0.008, "log": True},
}
SPACES = {
    "numbers": SearchSpace("numbers.yaml", NUMBERS, CONTROLS),
    "words": SearchSpace(
        "words.yaml", {**NUMBERS, LAYERS: {"type": "categorical", "choices": ["last", "all"]}}, CONTROLS
    ),
    "steps": SearchSpace(
        "steps.yaml",
        {
            BATCH: {"type": "int", "low": 16, "high": 64, "step": 16},
            LAYERS: {"type": "categorical", "choices": ["last", "all"]},
        },
        CONTROLS,
    ),
}
SAMPLERS, SCHEDULERS = (
    ("local_gp", "tpe", "gp", "random", "grid", "sobol"),
    ("asha", "hyperband", "median", "none"),
)
EPOCHS, SEEDS = 8, 3
COMBINATIONS = [
    pytest.param(sampler, scheduler, marks=pytest.mark.slow if sampler == "gp" and scheduler != "asha" else ())
    for sampler in SAMPLERS
    for scheduler in SCHEDULERS
]


def recorded(space: SearchSpace, *, rows: int = 40, nan: tuple[int, ...] = ()) -> Table:
    """A made-up table: better towards the middle of every dimension, and with every epoch; a little luck by seed."""
    rng = np.random.default_rng(0)
    values = [space.decode(space.value_at(list(rng.random(len(space.dimensions))))) for _ in range(rows)]
    points = np.array([space.shares(each) for each in values])
    good = 0.9 - ((points - 0.5) ** 2).sum(axis=1)
    curves = good[:, None, None] - 0.3 / np.arange(1, EPOCHS + 1) + 0.01 * rng.standard_normal((rows, SEEDS, EPOCHS))
    curves[list(nan), :, 3:] = math.nan
    seconds = np.broadcast_to(1.0 + points[:, :1, None], curves.shape)
    return make_table(space, values, {"val/accuracy": curves, "val/loss": 1 - curves, "seconds": seconds})


def params(**settings: Any) -> Params:
    small: dict[str, Any] = {
        "train.epochs": EPOCHS,
        "search.trials": 8,
        "search.budget.full_trainings": None,
        "search.sampler.startup_trials": 3,
        "search.sampler.start": "sobol",  # the made-up optimum has the recipe's learning rate
        "search.scheduler.grace_period": 2,
        "search.scheduler.reduction_factor": 2.0,
        "search.confirm.top": 1,
        "search.confirm.seeds": 1,
    }
    return Params().with_values(small | {name.replace("__", "."): value for name, value in settings.items()}, where="")


def table_for(sampler: str) -> Table:
    return recorded(SPACES[{"grid": "steps"}.get(sampler, "words")])


class Dies:
    """A listener with which the driver dies after so many epochs."""

    def __init__(self, after: int) -> None:
        self.left = after

    def replayed(self) -> None: ...
    def trial_started(self, trial: TrialRecord) -> None: ...
    def ending_early(self, reason: str, running: int, left: int) -> None: ...
    def trial_paused(self, trial: TrialRecord) -> None: ...
    def trial_ended(self, trial: TrialRecord) -> None: ...

    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        self.left -= 1
        if not self.left:
            raise Kill


@pytest.mark.parametrize(("sampler", "scheduler"), COMBINATIONS)
def test_every_sampler_works_with_every_scheduler(sampler: str, scheduler: str) -> None:
    names = {"search__sampler__name": sampler, "search__scheduler__name": scheduler}
    asked = params(**names, search__sampler__start="recipe")
    table = table_for(sampler)
    check_sampler(asked, table.space)
    found = simulate(asked, table, workers=3)
    tried = [end.record for end in found.ended if end.record.study == METHOD]
    assert sorted(record.number or 0 for record in tried) == list(range(8))
    assert {record.state for record in tried} <= {COMPLETE, PRUNED}
    assert any(record.state == COMPLETE for record in tried)
    assert (scheduler == "none") == all(record.state == COMPLETE for record in tried)
    assert {end.record.role for end in found.ended} >= {CONTROL, CONFIRMATION}
    assert len({end.row for end in found.ended if end.record.study == METHOD}) == 8


@pytest.mark.parametrize(("sampler", "scheduler"), COMBINATIONS)
def test_search_that_was_broken_off_goes_on_as_the_unharmed_one(
    tmp_path: Path, sampler: str, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    asked = params(search__sampler__name=sampler, search__scheduler__name=scheduler)
    table = table_for(sampler)
    whole = simulate(asked, table)
    again: Simulation | None = None
    for after in (EPOCHS + 11, 9, 7, 9999):
        # A replayed epoch is told to listeners too, so the count is of those that come on top.
        with Journal(tmp_path / "journal.jsonl", {}) as journal:
            before = journal.history.epochs
            try:
                again = simulate(asked, table, journal=journal, listeners=[Dies(before + after)])
            except Kill:
                continue
    assert again is not None
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        assert journal.history.sessions == 5
        assert told(list(journal.trials.values())) == told(list(whole.course.journal.trials.values()))


def test_same_seed_gives_the_same_search_and_another_seed_of_the_table_other_results() -> None:
    table = table_for("tpe")
    runs = [simulate(params(), table, workers=2, seed=seed) for seed in (0, 0, 1)]
    results = [told([end.record for end in run.ended]) for run in runs]
    assert results[0] == results[1] != results[2]


def test_workers_share_the_time_and_epochs_take_what_was_recorded() -> None:
    table, asked = table_for("random"), params(search__scheduler__name="none", search__sampler__name="random")
    one, four = simulate(asked, table), simulate(asked, table, workers=4)
    assert one.ended[-1].at == one.epochs == 11 * EPOCHS  # 8 trials, a control, two confirmations
    # Nine side by side on four take three rounds; then the confirmations.
    assert four.ended[-1].at == 4 * EPOCHS
    assert four.epochs == one.epochs
    timed = simulate(asked, table, recorded_time=True)
    expected = sum(table.curves["seconds"][end.row, 0, 0] * EPOCHS for end in timed.ended)
    assert timed.ended[-1].at == pytest.approx(expected)


def test_run_gets_the_curve_of_its_own_recorded_setting_and_seed() -> None:
    table = table_for("tpe")
    found = simulate(params(), table, seed=1)
    for end in found.ended:
        record = end.record
        seed = 1 + (0 if record.seed is None else record.seed - FIRST_SEED)
        curve = table.curves["val/accuracy"][end.row, seed % SEEDS]
        assert [record.epochs[epoch]["val/accuracy"] for epoch in record.epochs] == pytest.approx(
            curve[: len(record.epochs)]
        )
        if record.study == METHOD:
            assert dict(record.values) == dict(table.values[end.row])


def test_setting_that_diverged_fails_in_the_simulation_too() -> None:
    space = SPACES["numbers"]
    table = recorded(space, rows=8, nan=(2, 5))
    found = simulate(params(search__scheduler__name="none"), table)
    failed = [end for end in found.ended if end.record.state == FAILED]
    assert {end.row for end in failed} == {2, 5}
    assert {end.record.last_epoch for end in failed} == {3}


def test_nearest_setting_is_told_with_a_category_as_far_as_a_whole_side() -> None:
    space = SPACES["words"]
    values = [
        {WEIGHT: 0.01, LR: 0.001, LAYERS: "last"},
        {WEIGHT: 0.9, LR: 0.007, LAYERS: "all"},
    ]
    table = make_table(space, values, {"val/accuracy": np.zeros((2, 1, 1), dtype=np.float32)})
    assert table.nearest({WEIGHT: 0.011, LR: 0.001, LAYERS: "last"}) == 0
    assert table.nearest({WEIGHT: 0.011, LR: 0.001, LAYERS: "last"}, but={0}) == 1
    assert table.nearest({WEIGHT: 0.01, LR: 0.0006, LAYERS: "all"}) == 0
    assert table.nearest({WEIGHT: 0.5, LR: 0.006, LAYERS: "all"}) == 1


def test_best_share_is_by_the_mean_over_seeds() -> None:
    curves = np.array([[[0.9], [0.1]], [[0.6], [0.6]], [[0.5], [math.nan]], [[0.4], [0.4]]], dtype=np.float32)
    values = [{WEIGHT: 0.01 * (row + 1), LR: 0.001} for row in range(4)]
    table = make_table(SPACES["numbers"], values, {"val/accuracy": curves})
    assert table.best(0.25) == {1}
    assert table.best(0.5) == {0, 1}
    assert table.best(0.001) == {1}
    assert replace(table, further={0: [0.9, 0.9], 1: [0.2]}).best(0.25) == {0}  # .7 by four seeds, and .47 by three


def test_recorded_table_has_further_seeds_of_its_best_settings_alone() -> None:
    recorded = curve_tables.read_problem(curve_tables.RECORDED).table
    assert (len(recorded.values), recorded.seeds, recorded.epochs) == (256, 3, 8)
    counts = [len(recorded.further.get(row, ())) for row in range(256)]
    assert sorted(set(counts)) == [0, 3, 8]
    assert all(counts[row] == 8 for row in recorded.best(0.05))
    first = recorded.curves["val/accuracy"][:, :, -1].mean(axis=1)
    assert np.min(first[np.array(counts) > 0]) >= np.max(first[np.array(counts) == 0]) - 1e-6


def test_setting_that_is_held_is_the_one_that_would_be_confirmed_and_no_run_happens_after_enough() -> None:
    asked, table = params(search__trials=12), table_for("random")
    held: list[int | None] = []
    found = simulate(asked, table, enough=lambda simulation: bool(held.append(simulation.held())))
    confirmed = [end.record.of for end in found.ended if end.record.role == CONFIRMATION]
    rows = {end.record.id: end.row for end in found.ended}
    assert rows[next(name for name in confirmed if name and name.startswith("t"))] == found.held() == held[-1]
    assert held[0] is None
    assert len({row for row in held if row is not None}) > 1
    part = simulate(asked, table, enough=lambda simulation: simulation.epochs >= 40)
    assert 40 <= part.epochs < 40 + EPOCHS
    assert [end.row for end in part.ended] == [end.row for end in found.ended][: len(part.ended)]


def test_table_of_another_space_or_length_is_refused() -> None:
    table = table_for("tpe")
    with pytest.raises(ValueError, match=r"has 8 epochs, and train\.epochs is 9"):
        simulate(params(train__epochs=9), table)
    with pytest.raises(ValueError, match=rf"setting 0 of the table: {LAYERS}: no dimension of numbers.yaml"):
        make_table(SPACES["numbers"], table.values, table.curves)


def test_budget_of_hours_ends_a_simulated_search_by_simulated_time() -> None:
    table = table_for("random")
    settings = {"search__sampler__name": "random", "search__scheduler__name": "none", "search__trials": 30}
    found = simulate(params(**settings, search__budget__hours=100 / 3600), table)
    assert found.course.stopped is not None
    assert "search.budget.hours" in found.course.stopped
    assert 80 <= found.ended[-1].at <= 100
    assert isinstance(found.course.journal, UnwrittenLedger)
