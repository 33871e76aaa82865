"""Which configurations a search may name the best, and which of them are confirmed with further seeds.

Of the completed trials that keep `search.constraints` (with several objectives, of those on the Pareto front), the most
accurate one is a candidate, and of those whose accuracy cannot be told from its own, the `top` - 1 best by the metric
of `search.choose.then`. With one seed each, two trials cannot be told apart where their difference is within 2 standard
errors of the difference of two networks on the same images (`pipeline.score.pooled_error`). Without such a metric the
`top` most accurate are candidates.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.config import Params
from pipeline.score.metrics.wording import accuracy_margin
from pipeline.score.pooled_error import discordance_error
from pipeline.tune.journal.correctness import CorrectImages
from pipeline.tune.journal.records import COMPLETE, OBJECTIVE, TrialRecord
from pipeline.tune.objectives.objectives import (
    ACCURACY_ALONE,
    OF_ATTENTION,
    Objectives,
    maximise,
    objectives_from_params,
)

NEAR = 2.0
"""Standard errors within which one trial's accuracy cannot be told from another's."""


@dataclass(frozen=True)
class ChoiceRule:
    """How the best configuration is chosen (`pipeline.tune.selection.choice`).

    top, seeds: `search.confirm`. base_seed: of the search. within: standard errors within which accuracies are equal.
    margin: the accuracy that an equal configuration may lack at most. objectives.then decides among equals.
    """

    top: int
    seeds: int
    base_seed: int = 0
    max_empty_share: float = 1.0
    objectives: Objectives = ACCURACY_ALONE
    within: float = 1.0
    margin: float = 0.01

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
        margin=accuracy_margin(params),
    )


def default_within(then: str | None) -> float:
    """`search.choose.within` where it is null: 2 for attention, since the most accurate of equals is a maximum, from
    which 1 would leave out half of its equals; 1 for what goes along with accuracy.
    """
    return 2.0 if then in OF_ATTENTION else 1.0


def select_candidates(
    trials: Iterable[TrialRecord], rule: ChoiceRule, correct: CorrectImages | None = None
) -> list[TrialRecord]:
    """The configurations to confirm, the most accurate first; of trials of one configuration, the best alone.

    Args:
        trials: Of one study.
        rule: How they are chosen.
        correct: Which images each was right on. Trials of which that is not known are near within `rule.margin`.
    """
    ranked = rank_trials(trials, rule)
    if rule.then is None or not ranked:
        return ranked[: rule.top]
    best, *others = ranked
    near = [trial for trial in others if _is_near(trial, best, rule, correct or CorrectImages())]
    return [best, *sorted(near, key=lambda trial: -then_value(trial, rule))[: rule.top - 1]]


def rank_trials(trials: Iterable[TrialRecord], rule: ChoiceRule) -> list[TrialRecord]:
    """Every trial that may be named the best, by last-epoch validation accuracy (ties: lower loss, then earlier), best
    first; of those of the same configuration, the best alone.
    """
    found = (
        pareto_front(trials, rule.max_empty_share, rule.objectives)
        if rule.objectives.is_multi_objective
        else allowed_trials(trials, rule.max_empty_share, rule.objectives)
    )
    different: dict[str, TrialRecord] = {}
    for trial in sorted(found, key=rank_key, reverse=True):
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


def rank_key(trial: TrialRecord) -> tuple[float, float, int]:
    """By which trials are ranked: accuracy, then lower loss, then the earlier one."""
    loss = trial.metric("val/loss")
    return trial.metric(OBJECTIVE), -math.inf if math.isnan(loss) else -loss, -(trial.number or 0)


def then_value(trial: TrialRecord, rule: ChoiceRule) -> float:
    """A trial's value of the metric that decides among equals, more being better; -inf where it has none."""
    value = maximise(rule.then, trial.metric(rule.then)) if rule.then else math.nan
    return -math.inf if math.isnan(value) else value


def _is_near(trial: TrialRecord, best: TrialRecord, rule: ChoiceRule, correct: CorrectImages) -> bool:
    behind = best.metric(OBJECTIVE) - trial.metric(OBJECTIVE)
    first, second = (correct.at(each.id, each.last_epoch) for each in (best, trial))
    if first is None or second is None or len(first) != len(second):
        return behind <= rule.margin
    return behind <= NEAR * discordance_error(first, second)
