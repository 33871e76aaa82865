"""Claims about which setting is the best: candidates, their further seeds, ties, and what is told if there is none."""

import itertools
import math

import pytest

from pipeline.errors import UserError
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL, FAILED, PRUNED, VAL_ACCURACY, TrialRecord
from pipeline.tune.selection.candidates import ChoiceRule, empty_share, select_candidates
from pipeline.tune.selection.choice import choose_best
from pipeline.tune.selection.confirm import confirm_results, confirmation_runs


def trial(
    number: int | None,
    accuracy: float = 0.5,
    *,
    loss: float = 1.0,
    empty: float = 0.0,
    state: str | None = COMPLETE,
    reason: str | None = None,
) -> TrialRecord:
    last = {"val/accuracy": accuracy, "val/loss": loss, "val/spatial_entropy/empty_share": empty}
    record = TrialRecord("baseline", None, {"train.lr": 0.1}, role=CONTROL)
    if number is not None:
        record = TrialRecord(f"t{number:04d}", number, {"train.lr": 0.1 + number}, study="search")
    record.epochs = {1: {**last, "val/accuracy": 0.99}, 2: last}
    record.state, record.reason = state, reason
    return record


def again(of: TrialRecord, *accuracies: float | None, base_seed: int = 0) -> list[TrialRecord]:
    """Confirmations that ended with these accuracies; None for one that failed."""
    runs = confirmation_runs(of, len(accuracies), base_seed=base_seed)
    for run, accuracy in zip(runs, accuracies, strict=True):
        run.state, run.epochs = COMPLETE, {2: {"val/accuracy": accuracy or 0.0, "val/loss": 1.0}}
        if accuracy is None:
            run.state = FAILED
    return runs


def best(*trials: TrialRecord, max_empty_share: float = 0.05, top: int = 10, seeds: int = 0) -> str:
    rule = ChoiceRule(top=top, seeds=seeds, max_empty_share=max_empty_share)
    return choose_best(trials, rule).best.trial.id


def test_best_is_the_highest_accuracy_of_the_last_epoch() -> None:
    assert best(trial(0, 0.6), trial(1, 0.8), trial(2, 0.7)) == "t0001"
    early = trial(3, 0.5)
    early.epochs[1]["val/accuracy"] = 1.0
    assert best(trial(0, 0.6), early) == "t0000"


def test_tie_is_broken_by_the_lower_loss_and_then_by_the_earlier_trial() -> None:
    assert best(trial(0, 0.8, loss=0.9), trial(1, 0.8, loss=0.7), trial(2, 0.8, loss=0.8)) == "t0001"
    assert best(trial(0, 0.8, loss=0.7), trial(1, 0.8, loss=0.7)) == "t0000"
    assert best(trial(1, 0.8, loss=0.7), trial(0, 0.8, loss=0.7)) == "t0000"


def test_tie_is_not_won_by_a_loss_that_is_no_number() -> None:
    assert best(trial(0, 0.8, loss=math.nan), trial(1, 0.8, loss=0.7)) == "t0001"


@pytest.mark.parametrize("order", list(itertools.permutations((0.1, 0.2, 0.3))))
def test_tie_of_means_is_not_broken_by_rounding(order: tuple[float, float, float]) -> None:
    """Both have seen the same three values, whose plain sum depends on their order; the first search value decides."""
    first, second = trial(0, 0.3), trial(1, order[0])
    runs = [*again(first, 0.2, 0.1), *again(second, order[1], order[2])]
    assert best(first, second, *runs, seeds=2) == "t0000"


def test_best_is_no_control_and_has_run_in_full() -> None:
    ended_early = [trial(1, 0.9, state=PRUNED), trial(2, 0.9, state=FAILED), trial(3, 0.9, state=None)]
    assert best(trial(None, 0.9), *ended_early, trial(4, 0.1)) == "t0004"


def test_setting_that_leaves_too_many_maps_empty_is_not_chosen() -> None:
    assert best(trial(0, 0.9, empty=0.06), trial(1, 0.5, empty=0.05)) == "t0001"
    assert best(trial(0, 0.9, empty=0.06), trial(1, 0.5), max_empty_share=0.1) == "t0000"
    assert best(trial(0, 0.9, empty=1.0), max_empty_share=1.0) == "t0000"


def test_share_of_empty_maps_is_the_largest_of_any_method_at_the_last_epoch() -> None:
    record = trial(0, empty=0.25)
    record.epochs[1]["val/spatial_entropy/empty_share"] = 0.9
    assert empty_share(record) == 0.25
    record.epochs[2]["val/other/empty_share"] = 0.5
    assert empty_share(record) == 0.5
    assert empty_share(TrialRecord("t0000", 0, {}, epochs={1: {"val/accuracy": 0.5}})) == 0.0


def test_candidates_are_the_best_allowed_ones_best_first() -> None:
    trials = [trial(0, 0.6), trial(1, 0.9, empty=0.5), trial(2, 0.8), trial(3, 0.8), trial(None, 1.0), trial(4, 0.7)]
    found = select_candidates(trials, ChoiceRule(top=3, seeds=0, max_empty_share=0.05))
    assert [record.id for record in found] == ["t0002", "t0003", "t0004"]
    assert len(select_candidates(trials, ChoiceRule(top=1000, seeds=0, max_empty_share=0.05))) == 4
    assert select_candidates([], ChoiceRule(top=3, seeds=0)) == []


def test_confirmations_repeat_the_setting_with_seeds_that_retraining_never_uses() -> None:
    runs = confirmation_runs(trial(7), 2, base_seed=5)
    assert [(run.id, run.seed) for run in runs] == [("t0007-seed1006", 1006), ("t0007-seed1007", 1007)]
    for run in runs:
        assert (run.role, run.of, run.number, run.study, run.state) == (CONFIRMATION, "t0007", None, None, None)
        assert run.values == trial(7).values
    assert confirmation_runs(trial(7), 0, base_seed=5) == []
    # Retraining takes base.seed + 1 to base.seed + 1000 at most.
    assert min(run.seed or 0 for run in confirmation_runs(trial(7), 100, base_seed=0)) > 1000


def test_more_seeds_keep_those_that_were_there() -> None:
    few, more = confirmation_runs(trial(0), 2, base_seed=0), confirmation_runs(trial(0), 4, base_seed=0)
    assert [run.id for run in more[:2]] == [run.id for run in few]


def test_confirmed_setting_has_the_mean_over_all_seeds_and_over_the_further_ones() -> None:
    record = trial(0, 0.9)
    found = confirm_results(record, {run.id: run for run in again(record, 0.6, 0.75)}, 2, base_seed=0)
    assert found.further(VAL_ACCURACY) == (0.6, 0.75)
    assert found.mean == 0.75
    assert found.further_mean(VAL_ACCURACY) == 0.675


def test_confirmations_that_are_still_to_come_do_not_count() -> None:
    record = trial(0, 0.9)
    runs = again(record, 0.6, 0.75)
    runs[1].state = None
    assert confirm_results(record, {run.id: run for run in runs}, 2, base_seed=0).further(VAL_ACCURACY) == (0.6,)
    assert confirm_results(record, {}, 2, base_seed=0).further_mean(VAL_ACCURACY) is None
    assert confirm_results(record, {}, 2, base_seed=0).mean == 0.9
    # Nor do those of seeds that are no longer asked for.
    assert confirm_results(record, {run.id: run for run in again(record, 0.6, 0.75)}, 1, base_seed=0).further(
        VAL_ACCURACY
    ) == (0.6,)


def test_lucky_candidate_loses_to_the_one_that_is_better_over_all_seeds() -> None:
    lucky, steady = trial(0, 0.9), trial(1, 0.85)
    runs = [*again(lucky, 0.6, 0.6), *again(steady, 0.8, 0.84)]
    assert best(lucky, steady, *runs, seeds=2) == "t0001"
    assert best(lucky, steady, *runs, seeds=0) == "t0000"


def test_candidate_that_failed_with_another_seed_is_not_the_best() -> None:
    first, second = trial(0, 0.9), trial(1, 0.5)
    assert best(first, second, *again(first, 0.95, None), *again(second, 0.4, 0.4), seeds=2) == "t0001"


def test_candidates_that_all_failed_with_another_seed_are_told() -> None:
    first, second = trial(0, 0.9), trial(1, 0.5)
    runs = [*again(first, 0.9, None), *again(second, None, 0.4)]
    with pytest.raises(UserError, match=r"each of the best configurations \(t0000, t0001\) failed with another seed"):
        best(first, second, *runs, seeds=2)


def test_budget_that_let_some_candidates_be_confirmed_leaves_the_choice_among_those() -> None:
    confirmed_ones, hasty = trial(1, 0.7), trial(0, 0.9)
    assert best(hasty, confirmed_ones, *again(confirmed_ones, 0.6, 0.6), *again(hasty, 0.9), seeds=2) == "t0001"


def test_candidate_with_fewer_seeds_is_the_best_if_those_with_more_failed() -> None:
    failed, hasty = trial(1, 0.9), trial(0, 0.7)
    assert best(failed, hasty, *again(failed, 0.9, None), *again(hasty, 0.6), seeds=2) == "t0000"


def test_setting_that_is_no_candidate_is_not_chosen_however_it_was_confirmed() -> None:
    first, second = trial(0, 0.9), trial(1, 0.5)
    assert best(first, second, *again(first, 0.1), *again(second, 1.0), seeds=1, top=1) == "t0000"


def test_no_allowed_setting_is_told_with_the_smallest_share() -> None:
    with pytest.raises(
        UserError, match=r"at least 20% of the maps were empty, more than search\.max_empty_share \(5%\)"
    ):
        best(trial(0, empty=0.4), trial(1, empty=0.2), trial(None))


def test_no_completed_trial_is_told_with_the_reasons_of_the_failures() -> None:
    failed = [trial(0, state=FAILED, reason="diverged: in epoch 3"), trial(1, state=FAILED, reason="OutOfMemoryError")]
    control = trial(None, state=FAILED, reason="of a control, which is no trial")
    with pytest.raises(UserError) as told:
        best(control, *failed, trial(2, state=PRUNED))
    assert str(told.value).splitlines() == [
        "no trial of the search completed:",
        "  OutOfMemoryError",
        "  diverged: in epoch 3",
        "Change params.yaml or the space and run again.",
    ]


def test_no_completed_trial_and_no_failure_is_told_as_well() -> None:
    with pytest.raises(UserError, match="none failed; all were stopped early"):
        best(trial(0, state=PRUNED))


def test_budget_that_ended_before_any_trial_completed_is_named() -> None:
    with pytest.raises(UserError) as told:
        choose_best(
            [trial(None)],
            ChoiceRule(top=2, seeds=2),
            stopped="search.budget.hours: 0.50 of 0.5 hours spent; the rest is too little",
        )
    assert str(told.value).splitlines() == [
        "no trial of the search completed:",
        "  none was started",
        "  ended early by search.budget.hours: 0.50 of 0.5 hours spent; the rest is too little",
        "Change params.yaml or the space and run again.",
    ]
