"""Claims about a search's figures: what was spent and saved, best and controls by seed, rungs, and the words."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from support.simulated_search import LR, SPACE, WEIGHT, WIDE

from pipeline.artifacts.search_result import RungCorrelation, SearchSummary
from pipeline.config import Params
from pipeline.config.schema.search_section import SamplerParams
from pipeline.state.search_summary import describe_fold_summary, describe_summary
from pipeline.tune.budget import EPOCH_BUDGET
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL, FAILED, PRUNED, TrialRecord
from pipeline.tune.outcome import SearchOutcome, Spent
from pipeline.tune.selection.candidates import ChoiceRule
from pipeline.tune.selection.choice import Choice, choose_best
from pipeline.tune.selection.confirm import ConfirmedResult, confirmation_runs
from pipeline.tune.selection.summary import rung_correlations, summarise
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.study import StudyAdapter
from pipeline.tune.task import Resources, SearchTask

HERE = Path("nowhere")


def ran(name: str, *curve: float, state: str = COMPLETE, **about: Any) -> TrialRecord:
    """A run with this accuracy by epoch, of a minute of training and 90 seconds of a worker an epoch."""
    number = int(name[1:]) if name[1:].isdigit() else None
    record = TrialRecord(name, number, {WEIGHT: 0.1}, state=state, **about)
    record.epochs = {
        epoch: {"val/accuracy": value, "val/loss": 1 - value, "seconds": 60.0} for epoch, value in enumerate(curve, 1)
    }
    record.busy_s, record.gpu_s = 90.0 * len(curve), 45.0 * len(curve)
    return record


def trial(name: str, *curve: float, state: str = COMPLETE) -> TrialRecord:
    return ran(name, *curve, state=state, study="control_study" if name[0] == "c" else "search")


def again(of: str, seed: int, *curve: float, state: str = COMPLETE) -> TrialRecord:
    return ran(f"{of}-seed{seed}", *curve, state=state, role=CONFIRMATION, seed=seed, of=of)


def searched(space: SearchSpace = SPACE, **settings: Any) -> tuple[SearchTask, SearchOutcome]:
    """A search of four epochs a trial: a control, four trials, and confirmations of the control and of the best."""
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    params = Params().with_values(
        {
            "train.epochs": 4,
            "search.trials": 4,
            "search.budget.full_trainings": None,
            "search.confirm.top": 1,
            **dotted,
        },
        where="",
    )
    trials = [
        ran("baseline", 0.2, 0.3, 0.4, 0.5, role=CONTROL),
        trial("t0000", 0.3, 0.4, 0.5, 0.75),
        trial("t0001", 0.1, 0.2, state=PRUNED),
        trial("t0002", state=FAILED),
        trial("t0003", 0.3, 0.4, 0.5, 0.625),
        again("baseline", 1001, 0.2, 0.3, 0.4, 0.25),
        again("baseline", 1002, 0.2, 0.3, 0.4, 0.75),
        again("t0000", 1001, 0.2, 0.3, 0.4, 0.5),
        again("t0000", 1002, 0.1, state=FAILED),
    ]
    trials[-1] = again("t0000", 1002, 0.2, 0.3, 0.4, 0.75)
    proposer = StudyAdapter(space, SamplerParams(name="random", startup_trials=1), seed=0, name="abc")
    spent = Spent(7200.0, sum(record.gpu_s for record in trials))
    task = SearchTask(params, HERE, HERE, HERE, Resources(1, 0.5, 1, 1, 1), space=space, fingerprint="f00d" * 16)
    return task, SearchOutcome(trials, {"search": proposer}, [2], spent, None)


def best_of(task: SearchTask, outcome: SearchOutcome) -> Choice:
    confirm = task.params.search.confirm
    return choose_best(outcome.trials, ChoiceRule(top=confirm.top, seeds=confirm.seeds))


def summary(space: SearchSpace = SPACE, **settings: Any) -> dict[str, Any]:
    task, outcome = searched(space, **settings)
    return summarise(task, outcome, best_of(task, outcome), None).content()


def test_summary_counts_trials_confirmations_and_epochs() -> None:
    found = summary()
    assert found["fingerprint"] == "f00d" * 16
    assert found["trials"] == {COMPLETE: 2, PRUNED: 1, FAILED: 1}
    assert found["confirmations"] == 4
    assert found["epochs"] == {"spent": 30, "budget": None, "saved_by_stopping": 2}
    assert found["importances"] == {}
    assert found["logarithmic"] == [path for path, each in SPACE.dimensions.items() if each.get("log")]
    assert found["stopped_by"] is None
    task, outcome = searched()
    ended = summarise(
        task, replace(outcome, stopped="search.budget.hours: spent"), best_of(task, outcome), None
    ).content()
    assert ended["stopped_by"] == "search.budget.hours: spent"


def test_search_that_has_spent_its_epochs_is_not_said_to_have_ended_early() -> None:
    by_epochs = {"search.trials": None, "search.budget.full_trainings": 20}
    task, outcome = searched(**by_epochs)
    spent = replace(outcome, stopped=f"{EPOCH_BUDGET}: 30 of 80 epochs")
    found = summarise(task, spent, best_of(task, outcome), None).content()
    assert (found["stopped_by"], found["trials_asked"]) == (None, None)
    assert found["epochs"]["budget"] == 20 * task.params.train.epochs


def test_summary_holds_the_best_and_the_controls_by_seed() -> None:
    found = summary()
    assert found["best"] == {
        "trial": "t0000",
        "val_accuracy": 0.75,
        "val_loss": 0.25,
        "further_seeds": [0.5, 0.75],
        "further_mean": 0.625,
    }
    assert found["controls"] == {
        "baseline": {"val_accuracy": 0.5, "val_loss": 0.5, "further_seeds": [0.25, 0.75], "further_mean": 0.5}
    }
    assert found["tuned_control"] is None


def test_search_without_confirmation_has_no_further_seeds() -> None:
    found = summary(search__confirm__seeds=0)
    assert found["best"]["further_seeds"] == []
    assert found["best"]["further_mean"] is None


def test_control_whose_budget_went_to_seeds_is_told_with_all_of_them() -> None:
    task, outcome = searched(search__compare="same_budget", search__confirm__seeds=1, search__trials=4)
    more = [again("baseline", seed, 0.0, 0.0, 0.0, 1.0) for seed in (1003, 1004, 1005)]
    outcome = replace(outcome, trials=[*outcome.trials, *more])
    found = summarise(task, outcome, best_of(task, outcome), None).content()
    assert found["controls"]["baseline"]["further_seeds"] == [0.25, 0.75, 1.0, 1.0]
    assert found["best"]["further_seeds"] == [0.5]


def test_time_is_told_by_what_it_went_into() -> None:
    # 30 epochs; two of t0001 were saved, at the pace of 90 seconds.
    assert summary()["spent"] == {
        "hours": 2.0,
        "worker_hours": 0.75,
        "training_hours": 0.5,
        "worker_hours_saved_by_stopping": 0.05,
        "gpu_hours": 0.375,
        "cost": None,
    }
    assert summary(search__budget__price_per_gpu_hour=4.0)["spent"]["cost"] == 1.5


def test_search_in_which_nothing_was_trained_has_no_pace() -> None:
    task, outcome = searched()
    found = summarise(task, replace(outcome, trials=outcome.trials[3:4]), best_of(task, outcome), None).content()
    assert found["spent"]["worker_hours_saved_by_stopping"] == 0.0
    assert found["controls"] == {}


@pytest.mark.parametrize(
    ("space", "compare", "words"),
    [
        (SPACE, "recipe", "baseline, with the recipe of params.yaml (the search varies none of it)"),
        (WIDE, "recipe", "baseline, with the recipe of params.yaml, not tuned (search.compare: recipe)"),
        (
            SPACE,
            "same_budget",
            "baseline, which has nothing to tune in this space; its share of the budget went to 4 further seeds "
            "(search.compare: same_budget)",
        ),
    ],
)
def test_control_is_told_in_words(space: SearchSpace, compare: str, words: str) -> None:
    assert summary(space, search__compare=compare)["against"] == words


def test_tuned_control_is_told_in_words_and_with_its_values() -> None:
    task, outcome = searched(WIDE, search__compare="same_budget")
    record = trial("c0001", 0.1, 0.2, 0.3, 0.5)
    runs = confirmation_runs(record, 2, base_seed=0)
    for run, value in zip(runs, (0.25, 0.5), strict=True):
        run.state, run.epochs = "complete", {4: {"val/accuracy": value}}
    tuned = ConfirmedResult(record, tuple(runs))
    choice = Choice(tuned, (tuned,), ("c0001",), None, ChoiceRule(top=1, seeds=2))
    found = summarise(task, outcome, best_of(task, outcome), choice).content()
    assert found["against"] == ("baseline, its recipe tuned over 4 trials of its own (search.compare: same_budget)")
    assert found["tuned_control"] == {
        "trial": "c0001",
        "val_accuracy": 0.5,
        "val_loss": 0.5,
        "further_seeds": [0.25, 0.5],
        "further_mean": 0.375,
    }


def test_summary_is_json_whatever_the_values_are() -> None:
    task, outcome = searched()
    for record in outcome.trials:
        for metrics in record.epochs.values():
            metrics["val/loss"] = math.nan
    outcome.trials[5].state = FAILED
    found = summarise(task, outcome, best_of(task, outcome), None).content()
    json.dumps(found, allow_nan=False)
    assert found["best"]["val_loss"] is None
    assert found["controls"]["baseline"]["further_seeds"] == [None, 0.75]
    assert found["controls"]["baseline"]["further_mean"] is None


# Rungs.


def test_rung_correlation_is_spearmans_over_those_that_ran_in_full() -> None:
    early, late = [0.1, 0.4, 0.2, 0.3], [0.5, 0.8, 0.7, 0.6]
    trials = [trial(f"t{n:04d}", 0.0, e, 0.0, v) for n, (e, v) in enumerate(zip(early, late, strict=True))]
    trials.append(trial("t0009", 0.0, 0.9, state=PRUNED))
    # By hand: ranks 1 4 2 3 and 1 4 3 2, so 1 - 6 * 2 / (4 * 15).
    expected = RungCorrelation(correlation=0.8, trials=4)
    assert rung_correlations(trials, [2]) == {"2": expected}
    assert stats.spearmanr(early, late).statistic == pytest.approx(0.8)


def test_rung_correlation_shares_the_ranks_of_equal_values() -> None:
    early, late = [0.1, 0.1, 0.2, 0.3], [0.5, 0.6, 0.6, 0.7]
    trials = [trial(f"t{n:04d}", e, v) for n, (e, v) in enumerate(zip(early, late, strict=True))]
    # Ranks 1.5 1.5 3 4 and 1 2.5 2.5 4, around 2.5: 3.75 / sqrt(4.5 * 4.5).
    assert rung_correlations(trials, [1]) == {"1": RungCorrelation(correlation=0.8333, trials=4)}
    assert stats.spearmanr(early, late).statistic == pytest.approx(3.75 / 4.5)


@pytest.mark.parametrize(
    "curves",
    [
        [],
        [(0.1, 0.2)],
        [(0.1, 0.2), (0.2, 0.3)],
        [(0.1, 0.2), (0.1, 0.3), (0.1, 0.4)],
        [(0.1, 0.5), (0.2, 0.5), (0.3, 0.5)],
    ],
    ids=["none", "one", "two", "the same at the rung", "the same at the end"],
)
def test_rung_that_nothing_can_be_said_of_is_left_out(curves: list[tuple[float, float]]) -> None:
    assert rung_correlations([trial(f"t{n:04d}", *curve) for n, curve in enumerate(curves)], [1]) == {}


def test_rung_that_some_trials_did_not_report_counts_the_others() -> None:
    trials = [trial(f"t{n:04d}", 0.1 * n, 0.2 * n) for n in range(4)]
    del trials[2].epochs[1]
    assert rung_correlations(trials, [1, 7]) == {"1": RungCorrelation(correlation=1.0, trials=3)}


def test_summary_has_a_correlation_for_every_rung_of_the_methods_trials() -> None:
    task, outcome = searched()
    further = [trial("t0004", 0.2, 0.3, 0.6, 0.7), trial("c0000", 0.9, 0.9, 0.0, 0.0)]
    outcome = replace(outcome, trials=[*outcome.trials, *further], rung_epochs=[1, 2])
    found = summarise(task, outcome, best_of(task, outcome), None).content()["rung_correlations"]
    assert {rung: entry["trials"] for rung, entry in found.items()} == {"1": 3, "2": 3}
    assert found["1"] == {"correlation": 0.0, "trials": 3}
    assert LR not in found


def test_space_that_is_tried_to_its_end_is_told() -> None:
    assert "all_settings_tried" not in summary_of(*searched())
    flips = SearchSpace("space.yaml", {"train.flip": {"type": "categorical", "choices": [True, False]}}, SPACE.controls)
    task, outcome = searched(flips)
    assert summary_of(task, outcome)["all_settings_tried"] is False
    outcome.adapter.ask()
    outcome.adapter.ask()
    assert summary_of(task, outcome)["all_settings_tried"] is True
    found = summary_of(task, outcome)
    assert "every configuration of the space has been tried" in describe_summary(SearchSummary.model_validate(found))
    best = found["best"] | {"further_mean": 0.9512, "further_seeds": [1001, 1002]}
    said = describe_summary(SearchSummary.model_validate(found | {"best": best})).splitlines()[0]
    assert said.endswith("val/accuracy 0.9512 over 2 further seeds, which the search has not seen")


def test_summary_says_what_speaks_against_the_search_and_so_do_its_words() -> None:
    task, outcome = searched()
    found = summary_of(task, outcome)
    assert [each["name"] for each in found["health"]] == [
        "no_effect",
        "tie",
        "rungs",
        "validation_images",
        "still_improving",
    ]
    assert {each["kind"] for each in found["health"]} == {"unknown"}
    lines = describe_summary(SearchSummary.model_validate(found)).splitlines()
    first = lines.index("health    Nothing was found that speaks against this search.")
    assert lines[first + 1].startswith(
        "          Not examined: which parameters have an effect (3 trials, 40 are needed);"
    )
    ahead = [again("baseline", seed, 0.2, 0.3, 0.4, 0.98) for seed in (1001, 1002)]
    first = ran("baseline", 0.2, 0.3, 0.4, 0.97, role=CONTROL)
    further = [again("t0003", seed, 0.2, 0.3, 0.4, 0.62) for seed in (1001, 1002)]
    again_of_best = [again("t0000", seed, 0.2, 0.3, 0.4, 0.75) for seed in (1001, 1002)]
    trials = [first, *ahead, *(t for t in outcome.trials if t.study == "search"), *again_of_best, *further]
    found = summary_of(task, replace(outcome, trials=trials))
    (alarm,) = [each for each in found["health"] if each["kind"] == "alarm"]
    assert alarm["name"] == "control_ahead"
    assert f"health {alarm['seen']} {alarm['advice']}" in " ".join(
        describe_summary(SearchSummary.model_validate(found)).split()
    )
    of_fold = describe_fold_summary(SearchSummary.model_validate(found), {WEIGHT: 0.1}, "fold 1 of 5", "a/folds/1")
    assert f"health {alarm['seen']} {alarm['advice']}" in " ".join(of_fold.split())
    assert "Not examined" not in of_fold
    del found["health"]  # as a version before wrote it
    assert "health" not in describe_summary(SearchSummary.model_validate(found))


def test_end_of_a_search_is_told_in_the_layout_of_the_plan_and_in_plain_words() -> None:
    found = summary_of(*searched())
    found["trials"] = {"complete": 6, "pruned": 8, "failed": 0}
    found |= {"confirmations": 1, "epochs": {"spent": 26, "budget": 36, "saved_by_stopping": 2}}
    found["spent"] |= {"hours": 0.08, "worker_hours": 1.5, "worker_hours_saved_by_stopping": 0.0}
    summary = SearchSummary.model_validate(found)
    said = " ".join(describe_summary(summary, planned=4).split())
    assert "tried 14 trials (6 in full, 8 stopped early), 1 control, 1 confirmation; 26 of 36 epochs, 2 saved" in said
    assert "epochs are left since they were reserved for 3 further confirmations" in said
    assert "spent 5 min, 1 h 30 min of workers' time, 0.38 GPU-hours control" in said
    assert "pruned" not in said
    assert "val/accuracy of the controls, measured alike: baseline 0." in said
    assert "epochs are left" not in describe_summary(summary)
    stopped = SearchSummary.model_validate(found | {"stopped_by": "sar-search stop --finish"})
    assert "\n          ended early by sar-search stop --finish\n" in describe_summary(stopped, planned=4)
    assert "epochs are left" not in " ".join(describe_summary(stopped, planned=4).split())
    found["epochs"]["saved_by_stopping"] = 0
    found["spent"]["worker_hours_saved_by_stopping"] = 0.05
    said = " ".join(describe_summary(SearchSummary.model_validate(found)).split())
    assert "0 saved" not in said
    assert "1 h 30 min of workers' time (stopping early saved 3 min of it)" in said


def test_search_of_a_fold_is_told_in_one_line() -> None:
    task, outcome = searched()
    found = SearchSummary.model_validate(summary_of(task, outcome))
    said = describe_fold_summary(found, {WEIGHT: 0.1}, "fold 1 of 5", "results/search/folds/1")
    assert re.fullmatch(
        r"fold 1 of 5: best t0\d{3}, val/accuracy 0\.\d{4}, weight=0\.1; \d+ trials, \d+.* epochs, .* -> "
        r"results/search/folds/1",
        said,
    )


def summary_of(task: SearchTask, outcome: SearchOutcome) -> dict[str, Any]:
    return summarise(task, outcome, choose_best(outcome.trials, ChoiceRule(top=1, seeds=2)), None).content()
