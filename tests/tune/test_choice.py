"""Which configurations are confirmed, and which of them is the best, where a second metric decides among equals."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import Params
from pipeline.score.metrics.wording import ACCURACY_WORDS
from pipeline.tune.journal.image_scores import ImageScores, pack_scores
from pipeline.tune.journal.records import COMPLETE, TrialRecord
from pipeline.tune.objectives.objectives import AUROC, LATENCY, LOSS, Objectives
from pipeline.tune.selection.candidates import ChoiceRule, choice_rule, rank_trials, select_candidates
from pipeline.tune.selection.choice import choose_best, describe_choice, describe_rule
from pipeline.tune.selection.confirm import confirmation_runs

IMAGES = 1000


def rule(
    then: str | None = AUROC, *, top: int = 3, seeds: int = 0, within: float = 2.0, margin: float = 0.01
) -> ChoiceRule:
    words = replace(ACCURACY_WORDS, margin=margin)
    return ChoiceRule(top=top, seeds=seeds, within=within, words=words, objectives=Objectives(then=then))


class Search:
    """Trials of which the first `wrong` images, and those of `others`, are wrong."""

    def __init__(self) -> None:
        self.records: list[TrialRecord] = []
        self.scores = ImageScores()

    def add(self, wrong: int, then: float, *, shift: int = 0, metric: str = AUROC) -> TrialRecord:
        number = len(self.records)
        record = TrialRecord(f"t{number:04d}", number, {"train.lr": 0.1 + number}, study="search")
        self._end(record, wrong, then, shift, metric)
        return record

    def confirm(self, of: TrialRecord, wrong: Sequence[int], then: Sequence[float], *, shift: int = 0) -> None:
        for run, count, value in zip(confirmation_runs(of, len(wrong), base_seed=0), wrong, then, strict=True):
            self._end(run, count, value, shift, AUROC)

    def _end(self, record: TrialRecord, wrong: int, then: float, shift: int, metric: str) -> None:
        right = np.ones(IMAGES, dtype=bool)
        right[shift : shift + wrong] = False
        record.state = COMPLETE
        record.epochs = {2: {"val/accuracy": float(right.mean()), "val/loss": 1.0, metric: then}}
        self.scores.add(record.id, 2, pack_scores(right))
        self.records.append(record)

    def candidates(self, given: ChoiceRule) -> list[str]:
        return [trial.id for trial in select_candidates(self.records, given, self.scores)]


def test_candidates_are_the_most_accurate_and_of_those_near_it_the_best_by_the_second_metric() -> None:
    search = Search()
    # The images that the others get wrong hold those of the first, so 100 * 2 standard errors are 2 sqrt(k + 1) points.
    for wrong, then in ((20, 0.5), (24, 0.6), (24, 0.9), (22, 0.7), (80, 0.99)):
        search.add(wrong, then)
    assert search.candidates(rule()) == ["t0000", "t0002", "t0003"]
    assert search.candidates(rule(top=2)) == ["t0000", "t0002"]
    assert search.candidates(rule(top=1)) == ["t0000"]
    assert search.candidates(rule(then=None)) == ["t0000", "t0003", "t0001"]  # of ties, the earlier


@pytest.mark.parametrize(("further", "near"), [(4, True), (5, False)])
def test_near_is_within_two_standard_errors_of_a_difference_on_the_same_images(further: int, near: bool) -> None:
    """Of k images on which the best alone is right: k / n <= 2 sqrt(k + 1 - k^2 / (n + 2)) / (n + 2)."""
    search = Search()
    search.add(20, 0.5)
    search.add(20 + further, 0.9)
    assert (search.candidates(rule()) == ["t0000", "t0001"]) == near
    other = Search()  # wrong on quite other images: as many, but hardly to be told apart
    other.add(20, 0.5)
    other.add(20 + further, 0.9, shift=500)
    assert other.candidates(rule()) == ["t0000", "t0001"]


def test_trials_without_a_record_of_their_images_are_near_within_the_margin() -> None:
    search = Search()
    for wrong, then in ((20, 0.5), (29, 0.9), (31, 0.99)):
        search.add(wrong, then)
    assert [each.id for each in select_candidates(search.records, rule())] == ["t0000", "t0001"]


def test_without_a_standard_error_equal_values_alone_are_equal_and_this_is_said() -> None:
    search = Search()
    for wrong, then in ((20, 0.5), (20, 0.9), (21, 0.99)):
        search.add(wrong, then)
    choice = choose_best(search.records, rule())
    assert choice.equal == ("t0000", "t0001")
    assert "(no standard error is known, so only equal values count as equal)" in describe_choice(choice.result())


def test_second_metric_that_a_trial_lacks_comes_last() -> None:
    search = Search()
    for wrong, then in ((20, 0.5), (20, math.nan), (21, 0.1)):
        search.add(wrong, then)
    assert search.candidates(rule(top=3)) == ["t0000", "t0002", "t0001"]


def test_lower_is_better_of_a_loss_and_of_latency() -> None:
    for metric in (LOSS, LATENCY):
        search = Search()
        for wrong, then in ((20, 0.5), (20, 0.9), (20, 0.1), (20, 0.3)):
            search.add(wrong, then, metric=metric)
        found = search.candidates(rule(metric, top=2))
        assert found[1:] == ["t0002"] if metric == LATENCY else found == ["t0002", "t0003"]  # by loss ties are broken


def confirmed(*arms: tuple[Sequence[int], Sequence[float], int]) -> Search:
    search = Search()
    trials = [search.add(wrong[0], then[0], shift=shift) for wrong, then, shift in arms]
    for trial, (wrong, then, shift) in zip(trials, arms, strict=True):
        search.confirm(trial, wrong[1:], then[1:], shift=shift)
    return search


def test_among_equals_the_second_metric_decides_by_its_mean_over_all_seeds() -> None:
    search = confirmed(
        ((20, 24, 22), (0.5, 0.5, 0.5), 0), ((24, 22, 26), (0.95, 0.9, 0.91), 3), ((22, 26, 24), (0.99, 0.8, 0.8), 6)
    )
    choice = choose_best(search.records, rule(seeds=2), search.scores)
    assert (choice.best.trial.id, choice.equal) == ("t0001", ("t0000", "t0002", "t0001"))
    assert choice.standard_error == pytest.approx(0.003, abs=0.0005)
    content = choice.result().content()
    assert (content["decided_by"], content["value"], content["further_value"]) == (
        AUROC,
        pytest.approx(0.92),
        pytest.approx(0.905),
    )
    assert describe_choice(choice.result()).startswith(
        "of 3 configurations with 3 seeds each, 3 cannot be told apart by accuracy"
    )
    assert describe_choice(choice.result()).endswith("val/attention/auroc decided (0.9050 over its further seeds)")


def test_one_that_is_clearly_less_accurate_is_not_equal_however_good_its_attention_is() -> None:
    search = confirmed(((20, 24, 22), (0.5, 0.5, 0.5), 0), ((23, 27, 25), (0.9, 0.9, 0.9), 5))
    assert choose_best(search.records, rule(seeds=2), search.scores).equal == ("t0000", "t0001")
    apart = confirmed(((20, 24, 22), (0.5, 0.5, 0.5), 0), ((24, 34, 32), (0.9, 0.9, 0.9), 0))
    choice = choose_best(apart.records, rule(seeds=2), apart.scores)
    assert choice.equal == ("t0000",)
    assert choice.result().decided_by == "val/accuracy"
    said = describe_choice(choice.result().model_copy(update={"standard_error": 0.003, "margin": 0.01}))
    assert said.endswith(
        "the most accurate; accuracy tells it from all others (no further apart than 2 standard errors of their "
        "difference, 0.60 points, and than 1.00 points)"
    )


def test_no_more_than_the_margin_may_be_given_up() -> None:
    search = confirmed(((20, 24, 22), (0.5, 0.5, 0.5), 0), ((20, 40, 30), (0.9, 0.9, 0.9), 300))
    behind = choose_best(search.records, rule(seeds=2, margin=0.009), search.scores)
    assert behind.equal == ("t0000", "t0001")
    assert choose_best(search.records, rule(seeds=2, margin=0.007), search.scores).equal == ("t0000",)
    assert choose_best(search.records, rule(seeds=2, within=0.0), search.scores).equal == ("t0000",)


def test_the_only_candidate_is_told_as_such() -> None:
    search = confirmed(((20, 24), (0.5, 0.5), 0))
    choice = choose_best(search.records, rule(seeds=1), search.scores)
    assert choice.standard_error is None
    assert describe_choice(choice.result()) == (
        "the only candidate, with 2 seeds: no other trial ran in full, or search.confirm.top allows no more"
    )


def test_rule_follows_the_parameters() -> None:
    params = Params().with_values({"search.choose.then": AUROC, "evaluate.margin": 0.02, "base.seed": 7}, where="here")
    given = choice_rule(params)
    assert (given.then, given.within, given.words.margin, given.base_seed) == (AUROC, 2.0, 0.02, 7)
    assert choice_rule(params.with_values({"search.choose.then": LOSS}, where="here")).within == 1.0
    assert choice_rule(params.with_values({"search.choose.within": 1.5}, where="here")).within == 1.5
    assert choice_rule(params.with_values({"search.choose.then": "none"}, where="here")).then is None


def test_plan_says_how_it_will_be_chosen() -> None:
    said = describe_rule(Params(), when="if there are 50 masks")
    assert said == (
        "the best by val/attention/auroc if there are 50 masks, else by val/loss, among those whose mean accuracy lies "
        "within 2 standard errors (1 if by val/loss) and 1.0 points of the highest"
    )
    decided = Params().with_values({"search.choose.then": LOSS}, where="here")
    assert describe_rule(decided, why="the set has no masks") == (
        "the best by val/loss among those whose mean accuracy lies within 1 standard error and 1.0 points of the "
        "highest; the set has no masks"
    )
    own = Params().with_values({"search.choose.then": LATENCY, "search.choose.within": 0.5}, where="here")
    assert "the best by latency_ms" in describe_rule(own)
    assert "within 0.5 standard errors" in describe_rule(own)
    none = Params().with_values({"search.choose.then": "none"}, where="here")
    assert describe_rule(none) == "the highest mean validation accuracy over all seeds"


def test_ranking_knows_accuracy_alone() -> None:
    search = Search()
    for wrong, then in ((22, 0.9), (20, 0.5)):
        search.add(wrong, then)
    assert [trial.id for trial in rank_trials(search.records, rule())] == ["t0001", "t0000"]
