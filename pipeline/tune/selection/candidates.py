"""Which configurations a search may name the best, and which of them are confirmed with further seeds.

Of the completed trials that keep `search.constraints` (with several objectives, of those on the Pareto front), the best
by the first objective is a candidate, and of those that this does not tell from it, the `top` - 1 best by the metric of
`search.choose.then`. With one seed each, two trials cannot be told apart where their difference is within 2 standard
errors of the difference of two networks on the same images (`pipeline.score.pooled_error`). Without such a metric the
`top` best by the first objective are candidates.
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
"""Standard errors within which one trial cannot be told from another by the first objective."""


@dataclass(frozen=True)
class ChoiceRule:
    """How the best configuration is chosen (`pipeline.tune.selection.choice`).

    top, seeds: `search.confirm`. base_seed: of the search. within: standard errors within which configurations
    are equal by the first objective. words: of that, whose margin an equal configuration may lack at most.
    objectives.then decides among equals.
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
        return self.objectives.then


def choice_rule(params: Params) -> ChoiceRule:
    """The rule that the parameters ask for."""
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
    """`search.choose.within` where it is null: 2 for attention, since the highest of equals is a maximum, from
    which 1 would leave out half of its equals; 1 for what goes along with what is
    measured of the classes.
    """
    return 2.0 if then in OF_ATTENTION else 1.0


def select_candidates(
    trials: Iterable[TrialRecord], rule: ChoiceRule, scores: ImageScores | None = None
) -> list[TrialRecord]:
    """The configurations to confirm, the best by the first objective first; of trials of one configuration, the best
    alone.

    Args:
        trials: Of one study.
        rule: How they are chosen.
        scores: Of the images by trial. Trials of which they are not known are near within `rule.words.margin`.
    """
    ranked = rank_trials(trials, rule)
    if rule.then is None or not ranked:
        return ranked[: rule.top]
    best, *others = ranked
    near = [trial for trial in others if _is_near(trial, best, rule, scores or ImageScores())]
    return [best, *sorted(near, key=lambda trial: -then_value(trial, rule))[: rule.top - 1]]


def rank_trials(trials: Iterable[TrialRecord], rule: ChoiceRule) -> list[TrialRecord]:
    """Every trial that may be named the best, by the first objective at the last epoch (ties: lower loss, then
    earlier), best first; of those of the same configuration, the best alone.
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
    """The completed trials whose share of empty maps is allowed, and that keep every constraint."""
    completed = [trial for trial in trials if trial.number is not None and trial.state == COMPLETE]
    return [trial for trial in completed if empty_share(trial) <= max_empty_share and objectives.is_feasible(trial)]


def pareto_front(trials: Iterable[TrialRecord], max_empty_share: float, objectives: Objectives) -> list[TrialRecord]:
    """Those of `allowed_trials` that no other one of them dominates."""
    return objectives.pareto_front(allowed_trials(trials, max_empty_share, objectives))


def empty_share(record: TrialRecord) -> float:
    """The largest share of empty maps of any method at a trial's last epoch, on the validation images."""
    metrics = record.epochs[record.last_epoch]
    return max((value for name, value in metrics.items() if name.endswith("/empty_share")), default=0.0)


def rank_key(trial: TrialRecord, objectives: Objectives = ACCURACY_ALONE) -> tuple[float, float, int]:
    """By which trials are ranked: the first objective, then lower loss, then the earlier one."""
    loss = trial.metric("val/loss")
    return objectives.gain(trial), -math.inf if math.isnan(loss) else -loss, -(trial.number or 0)


def then_value(trial: TrialRecord, rule: ChoiceRule) -> float:
    """A trial's value of the metric that decides among equals, more being better; -inf where it has none."""
    value = maximise(rule.then, trial.metric(rule.then)) if rule.then else math.nan
    return -math.inf if math.isnan(value) else value


def _is_near(trial: TrialRecord, best: TrialRecord, rule: ChoiceRule, scores: ImageScores) -> bool:
    behind = rule.objectives.gain(best) - rule.objectives.gain(trial)
    first, second = (scores.at(each.id, each.last_epoch) for each in (best, trial))
    if first is None or second is None or len(first) != len(second):
        return behind <= rule.words.margin
    return behind <= NEAR * difference_error(first, second)
