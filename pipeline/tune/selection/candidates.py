"""Candidates for the best configuration, which are confirmed with further seeds.

The candidates come from the completed trials that meet `search.constraints`; with several objectives, from
those on the Pareto front. The best trial by the first objective is a candidate. The others are the `top` - 1
best by the metric of `search.choose.then` among the trials that the first objective does not tell from the best
one. With one seed each, two trials cannot be told apart if their difference is within 2 standard errors of the
difference of two networks on the same images (`pipeline.score.pooled_error`). Without such a metric, the `top`
best trials by the first objective are candidates.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from pipeline.config import Params
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords
from pipeline.score.pooled_error import difference_error
from pipeline.tune.journal.image_scores import ImageScores
from pipeline.tune.journal.records import COMPLETE, TrialRecord
from pipeline.tune.objectives.objective_words import objective_words
from pipeline.tune.objectives.objectives import (
    ACCURACY_ALONE,
    OF_ATTENTION,
    Objectives,
    maximise,
    objectives_from_params,
)

NEAR = 2.0
"""Standard errors within which the first objective does not tell one trial from another."""


@dataclass(frozen=True)
class ChoiceRule:
    """Rule by which the best configuration is chosen (`pipeline.tune.selection.choice`).

    Attributes:
        top: Number of candidates, `search.confirm.top`.
        seeds: Further seeds of each candidate, `search.confirm.seeds`.
        base_seed: Seed of the search.
        max_empty_share: Largest allowed share of empty maps.
        objectives: Objectives and constraints; `objectives.then` decides among equals.
        within: Standard errors within which configurations are equal by the first objective.
        words: Wording of the first objective; an equal configuration may lack its margin at most.
    """

    top: int
    seeds: int
    base_seed: int = 0
    max_empty_share: float = 1.0
    objectives: Objectives = ACCURACY_ALONE
    within: float = 1.0
    words: MetricWords = ACCURACY_WORDS

    @property
    def then(self) -> str | None:
        """Metric that decides among equals; None if there is none."""
        return self.objectives.then

    def then_gain(self, value: float) -> float:
        """Returns a value of the metric that decides among equals, more is better; -inf if it is not finite."""
        return maximise(self.then or "", value) if math.isfinite(value) else -math.inf


def choice_rule(params: Params) -> ChoiceRule:
    """Returns the rule that the parameters ask for."""
    search, objectives = params.search, objectives_from_params(params)
    within = search.choose.within
    if within is None:
        within = default_within(objectives.then)
    return ChoiceRule(
        top=search.confirm.top,
        seeds=search.confirm.seeds,
        base_seed=params.base.seed,
        max_empty_share=search.max_empty_share,
        objectives=objectives,
        within=within,
        words=objective_words(params),
    )


def default_within(then: str | None) -> float:
    """Returns the value of `search.choose.within` where that is null: 2 for attention, 1 for any other metric.

    By attention, the highest of several equals is a maximum, and 1 standard error would leave out half of its
    equals. Other metrics are correlated with those of the classes.
    """
    return 2.0 if then in OF_ATTENTION else 1.0


def select_candidates(
    trials: Iterable[TrialRecord], rule: ChoiceRule, scores: ImageScores | None = None
) -> list[TrialRecord]:
    """Returns the configurations to confirm, the best by the first objective first.

    If several trials have the same configuration, only the best one counts.

    Args:
        trials: Trials of one study.
        rule: Rule of the choice.
        scores: Scores of the images by trial. Trials without scores are near the best if within
            `rule.words.margin`.
    """
    ranked = rank_trials(trials, rule)
    then = rule.then
    if then is None or not ranked:
        return ranked[: rule.top]
    best, *others = ranked
    near = [trial for trial in others if _is_near(trial, best, rule, scores or ImageScores())]
    return [best, *sorted(near, key=lambda trial: -rule.then_gain(trial.metric(then)))[: rule.top - 1]]


def rank_trials(trials: Iterable[TrialRecord], rule: ChoiceRule) -> list[TrialRecord]:
    """Returns every trial that may be named the best, best first; of trials with the same configuration, only
    the best one.

    The order is by the first objective at the last epoch; ties go to the lower loss, then to the earlier trial.
    """
    found = (
        pareto_front(trials, rule.max_empty_share, rule.objectives)
        if rule.objectives.is_multi_objective
        else allowed_trials(trials, rule.max_empty_share, rule.objectives)
    )
    different: dict[str, TrialRecord] = {}
    for trial in sorted(found, key=partial(rank_key, objectives=rule.objectives), reverse=True):
        different.setdefault(json.dumps(trial.values, sort_keys=True, default=str), trial)
    return list(different.values())


def allowed_trials(trials: Iterable[TrialRecord], max_empty_share: float, objectives: Objectives) -> list[TrialRecord]:
    """Returns the completed trials whose share of empty maps is allowed, and that meet every constraint.

    Args:
        trials: Trials of one study.
        max_empty_share: Largest allowed share of empty maps.
        objectives: Objectives and constraints.
    """
    completed = [trial for trial in trials if trial.number is not None and trial.state == COMPLETE]
    return [trial for trial in completed if empty_share(trial) <= max_empty_share and objectives.is_feasible(trial)]


def pareto_front(trials: Iterable[TrialRecord], max_empty_share: float, objectives: Objectives) -> list[TrialRecord]:
    """Returns the trials of `allowed_trials` that no other one dominates.

    Args:
        trials: Trials of one study.
        max_empty_share: Largest allowed share of empty maps.
        objectives: Objectives and constraints.
    """
    return objectives.pareto_front(allowed_trials(trials, max_empty_share, objectives))


def empty_share(record: TrialRecord) -> float:
    """Returns the largest share of empty maps of any method at a trial's last epoch, on the validation images."""
    metrics = record.epochs[record.last_epoch]
    return max((value for name, value in metrics.items() if name.endswith("/empty_share")), default=0.0)


def rank_key(trial: TrialRecord, objectives: Objectives = ACCURACY_ALONE) -> tuple[float, float, int]:
    """Returns a sort key that puts the best trial last: first objective, then lower loss, then the earlier
    trial.
    """
    loss = trial.metric("val/loss")
    return objectives.gain(trial), -math.inf if math.isnan(loss) else -loss, -(trial.number or 0)


def _is_near(trial: TrialRecord, best: TrialRecord, rule: ChoiceRule, scores: ImageScores) -> bool:
    """Returns whether the first objective does not tell a trial from the best one.

    Args:
        trial: The trial.
        best: The best trial.
        rule: Rule of the choice.
        scores: Scores of the images by trial.
    """
    behind = rule.objectives.gain(best) - rule.objectives.gain(trial)
    first, second = (scores.at(each.id, each.last_epoch) for each in (best, trial))
    if first is None or second is None or len(first) != len(second):
        return behind <= rule.words.margin
    return behind <= NEAR * difference_error(first, second)
