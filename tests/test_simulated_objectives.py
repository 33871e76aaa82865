"""Claims about several objectives and constraints on recorded curves: every combination works or is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulate import Simulation, Table, make_table, simulate
from support.simulated_search import Kill, told
from test_simulate import EPOCHS, SAMPLERS, SCHEDULERS, Dies, params, table_for

from pipeline.errors import UserError
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, INFEASIBLE, METHOD, TrialRecord
from pipeline.tune.objectives.objectives import JACCARD, LATENCY, PARAMETERS, check_objectives, objectives_from_params
from pipeline.tune.selection.candidates import ChoiceRule, pareto_front
from pipeline.tune.selection.choice import choose_best

OBJECTIVES = {"one": ["val/accuracy"], "two": ["val/accuracy", LATENCY], "three": ["val/accuracy", JACCARD, PARAMETERS]}
LIMITS = {
    "free": {},
    "parameters": {"search__constraints__max_parameters": 600},
    "latency": {"search__constraints__max_latency_ms": 6.0, "search__constraints__min_attention_jaccard": 0.4},
}


def refused(scheduler: str, objectives: str) -> bool:
    return objectives != "one" and scheduler != "none"


def table(sampler: str) -> Table:
    """Larger and slower along the first dimension; attention is best where that is small."""
    plain = table_for(sampler)
    share = plain.points[:, 0][:, None, None]
    shape = plain.curves["val/accuracy"].shape
    luck = 0.01 * np.random.default_rng(1).standard_normal(shape)
    curves = {
        PARAMETERS: np.broadcast_to(np.round(1000 * share), shape),
        LATENCY: np.broadcast_to(1 + 9 * share, shape),
        JACCARD: 0.6 - 0.5 * share + luck,
    }
    return make_table(plain.space, plain.values, {**plain.curves, **curves})


def asked(sampler: str, scheduler: str, objectives: str, limits: str, **more: Any) -> Any:
    return params(
        search__sampler__name=sampler,
        search__scheduler__name=scheduler,
        search__objectives=OBJECTIVES[objectives],
        **(LIMITS[limits] | more),
    )


def tried(found: Simulation) -> list[TrialRecord]:
    return [record for record in found.course.journal.trials.values() if record.study == METHOD]


COMBINATIONS = [
    pytest.param(*each, marks=pytest.mark.slow if each[0] == "gp" else ())
    for each in (
        (sampler, scheduler, objectives, limits)
        for sampler in SAMPLERS
        for scheduler in SCHEDULERS
        for objectives in OBJECTIVES
        for limits in LIMITS
        if not refused(scheduler, objectives)
    )
]
REFUSED = [
    (sampler, scheduler, objectives)
    for sampler in SAMPLERS
    for scheduler in SCHEDULERS
    for objectives in OBJECTIVES
    if refused(scheduler, objectives)
]


@pytest.mark.parametrize(("sampler", "scheduler", "objectives", "limits"), COMBINATIONS)
def test_combination_runs_and_names_nothing_that_breaks_a_constraint(
    sampler: str, scheduler: str, objectives: str, limits: str
) -> None:
    setting = asked(sampler, scheduler, objectives, limits)
    check_objectives(setting)
    goals = objectives_from_params(setting)
    found = simulate(setting, table(sampler), workers=2)
    records = tried(found)
    assert len(records) == 8
    assert all(record.state is not None for record in found.course.journal.trials.values())
    for record in records:
        breaks_before = any(
            record.metric(name) > limit for name, limit in goals.limits.items() if name in (PARAMETERS, LATENCY)
        )
        assert (record.state == INFEASIBLE) == breaks_before == (not record.epochs)
        assert (record.reason is not None) == breaks_before
    confirmed = {record.of for record in found.course.journal.trials.values() if record.role == CONFIRMATION}
    named = [record for record in records if record.id in confirmed]
    assert len(named) == 1
    assert goals.is_feasible(named[0])
    rule = ChoiceRule(top=1, seeds=1, max_empty_share=0.05, objectives=goals)
    assert choose_best(found.course.requested_trials(), rule).best.trial.id == named[0].id


@pytest.mark.parametrize(("sampler", "scheduler", "objectives"), REFUSED)
def test_combination_that_cannot_be_is_refused_in_a_sentence(sampler: str, scheduler: str, objectives: str) -> None:
    with pytest.raises(UserError) as said:
        check_objectives(asked(sampler, scheduler, objectives, "free"))
    assert f"search.scheduler.name: none (it is {scheduler})" in str(said.value)
    assert str(said.value).startswith("params.yaml: search.objectives: val/accuracy, ")


BROKEN_OFF = [
    pytest.param(*each, marks=pytest.mark.slow if each[0] == "gp" else ())
    for each in (
        ("tpe", "none", "two", "latency"),
        ("tpe", "none", "three", "parameters"),
        ("gp", "none", "two", "latency"),
        ("gp", "asha", "one", "latency"),
        ("random", "none", "two", "free"),
        ("tpe", "asha", "one", "latency"),
        ("tpe", "hyperband", "one", "parameters"),
        ("grid", "none", "three", "latency"),
        ("sobol", "median", "one", "latency"),
    )
]


@pytest.mark.parametrize(("sampler", "scheduler", "objectives", "limits"), BROKEN_OFF)
def test_search_that_was_broken_off_goes_on_as_the_unharmed_one(
    tmp_path: Path, sampler: str, scheduler: str, objectives: str, limits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    setting, recorded = asked(sampler, scheduler, objectives, limits), table(sampler)
    whole = simulate(setting, recorded)
    for after in (EPOCHS + 5, 9, 7, 9999):
        with Journal(tmp_path / "journal.jsonl", {}) as journal:
            try:
                simulate(setting, recorded, journal=journal, listeners=[Dies(journal.history.epochs + after)])
            except Kill:
                continue
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        assert journal.history.sessions == 5
        assert told(list(journal.trials.values())) == told(list(whole.course.journal.trials.values()))
        assert [r.measured for r in journal.trials.values()] == [
            r.measured for r in whole.course.journal.trials.values()
        ]


def test_ledger_cut_after_any_line_leads_to_the_same_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    limits = {"search__constraints__max_latency_ms": 6.0, "search__constraints__max_parameters": 500}
    setting, recorded = asked("tpe", "none", "two", "free", search__trials=5, **limits), table("tpe")
    with Journal(tmp_path / "whole" / "journal.jsonl", {}) as journal:
        simulate(setting, recorded, journal=journal)
        whole = told(list(journal.trials.values()))
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert any(b'"infeasible"' in line for line in lines)
    for cut in range(2, len(lines), 3):
        path = tmp_path / str(cut) / "journal.jsonl"
        path.parent.mkdir()
        path.write_bytes(b"".join(lines[:cut]))
        with Journal(path, {}) as journal:
            simulate(setting, recorded, journal=journal)
            assert told(list(journal.trials.values())) == whole


def test_extended_search_is_the_one_that_was_asked_for_at_once() -> None:
    recorded, journal = table("tpe"), None
    at_once = simulate(asked("tpe", "none", "two", "parameters", search__trials=12), recorded)
    for trials in (6, 12):
        found = simulate(asked("tpe", "none", "two", "parameters", search__trials=trials), recorded, journal=journal)
        journal = found.course.journal
    assert told(tried(found)) == told(tried(at_once))


def test_chosen_is_the_best_of_the_front_by_accuracy_and_the_front_is_what_nothing_dominates() -> None:
    setting = asked("tpe", "none", "three", "latency", search__trials=20)
    found, goals = simulate(setting, table("tpe")), objectives_from_params(setting)
    sound = [record for record in tried(found) if record.state == COMPLETE and goals.is_feasible(record)]
    signs = (1, 1, -1)

    def beats(one: TrialRecord, other: TrialRecord) -> bool:
        pairs = [
            (s * a, s * b)
            for s, a, b in zip(signs, goals.objective_values(one), goals.objective_values(other), strict=True)
        ]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    expected = {one.id for one in sound if not any(beats(other, one) for other in sound)}
    assert {record.id for record in pareto_front(tried(found), 0.05, goals)} == expected
    assert 1 < len(expected) < len(sound)
    (confirmed,) = {r.of for r in found.course.journal.trials.values() if r.role == CONFIRMATION and r.of != "baseline"}
    assert confirmed == max(expected, key=lambda name: found.course.journal.trials[name].metric("val/accuracy"))


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_sampler_that_learns_proposes_more_settings_that_keep_a_constraint_than_a_blind_one(sampler: str) -> None:
    """By a constraint that a third of the space keeps, from which the best accuracy pulls away."""
    counts = {}
    for name in (sampler, "random"):
        kept = 0
        for seed in range(3):
            more = {"search__trials": 24, "base__seed": seed, "search__constraints__max_latency_ms": 4.0}
            found = simulate(asked(name, "none", "one", "free", **more), table(sampler), seed=seed)
            kept += sum(record.state != INFEASIBLE for record in tried(found)[8:])
        counts[name] = kept
    assert counts[sampler] > counts["random"]


def test_target_counts_only_what_keeps_the_constraints() -> None:
    recorded = table("random")
    best = float(np.nanmax(recorded.curves["val/accuracy"][:, :, -1]))
    more = {"search__budget__target": best - 0.2, "search__trials": 8}
    free = simulate(asked("random", "none", "one", "free", **more), recorded)
    assert len(tried(free)) < 8
    nothing_keeps = simulate(
        asked("random", "none", "one", "free", **more, search__constraints__min_attention_jaccard=0.99), recorded
    )
    assert len(tried(nothing_keeps)) == 8


def test_search_in_which_nothing_keeps_a_constraint_says_how_near_it_came() -> None:
    setting = asked("random", "none", "one", "free", search__constraints__max_latency_ms=0.5)
    found = simulate(setting, table("random"))
    assert {record.state for record in tried(found)} == {INFEASIBLE}
    least = min(tried(found), key=lambda record: record.metric(LATENCY))
    with pytest.raises(UserError) as said:
        choose_best(
            found.course.requested_trials(),
            ChoiceRule(top=1, seeds=1, max_empty_share=0.05, objectives=objectives_from_params(setting)),
        )
    lines = str(said.value).splitlines()
    assert lines[0].startswith("no configuration that the search tried meets search.constraints: 8 were not trained")
    assert lines[1] == f"  latency_ms: the lowest was {least.metric(LATENCY):.4g} ({least.id}), allowed: at most 0.5"
    assert math.isfinite(least.metric(LATENCY))
