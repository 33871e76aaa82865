"""Choice of the best configuration among those that were confirmed.

Two criteria make a candidate equal to the best one by the mean of the first objective over all seeds. Its mean
lies within `within` standard errors of the best mean, and no more than the objective's margin behind it. The
standard error is that of a difference over shared seeds and images, pooled over the candidates
(`pipeline.score.pooled_error`), since the variance of one arm says nothing about a difference. Among equals,
the best mean of `search.choose.then` over all seeds is taken; without such a metric, the best mean of the first
objective.

The reported value of the best configuration is the mean over the further seeds alone, since the search's own
values were picked for being high.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts.search_result import ChoiceResult
from pipeline.errors import UserError
from pipeline.score.metrics.wording import words_of
from pipeline.score.pooled_error import pooled_error
from pipeline.tune.journal.image_scores import ImageScores
from pipeline.tune.journal.records import COMPLETE, FAILED, INFEASIBLE, PRUNED, TrialRecord
from pipeline.tune.objectives.objective_words import objective_words
from pipeline.tune.objectives.objectives import (
    AUTO,
    OF_ATTENTION,
    Objectives,
    format_metric,
    otherwise_by,
    violated,
)
from pipeline.tune.selection.candidates import ChoiceRule, default_within, empty_share, rank_key, select_candidates
from pipeline.tune.selection.confirm import ConfirmedResult, confirm_results
from pipeline.tune.selection.findings import count_words


@dataclass(frozen=True)
class Choice:
    """Configuration that was chosen, and the reason.

    Attributes:
        best: The chosen configuration.
        candidates: All configurations confirmed with as many seeds, the best by the first objective first.
        equal: Ids of the candidates that the first objective does not tell from the first one, that one
            included.
        standard_error: Standard error of a difference of two candidates; None if it could not be estimated.
        rule: Rule of the choice.
    """

    best: ConfirmedResult
    candidates: tuple[ConfirmedResult, ...]
    equal: tuple[str, ...]
    standard_error: float | None
    rule: ChoiceRule

    def result(self) -> ChoiceResult:
        """Returns the entry of summary.json."""
        found = ChoiceResult(
            then=self.rule.then,
            within=self.rule.within,
            margin=self.rule.words.margin,
            metric=self.rule.words,
            standard_error=self.standard_error,
            confirmed=[each.trial.id for each in self.candidates],
            equal=list(self.equal),
            decided_by=self.rule.then if self.rule.then and len(self.equal) > 1 else self.rule.objectives.first,
            value=None if self.rule.then is None else finite_or_none(self.best.mean_of(self.rule.then)),
            further_value=None if self.rule.then is None else finite_or_none(self.best.further_mean(self.rule.then)),
            further_seeds=len(self.best.confirmations),
            why="",
        )
        return found.model_copy(update={"why": describe_choice(found)})


def choose_best(
    trials: Sequence[TrialRecord],
    rule: ChoiceRule,
    scores: ImageScores | None = None,
    *,
    stopped: str | None = None,
    label: str = "the search",
) -> Choice:
    """Chooses the best configuration, as described in the module's docstring.

    Args:
        trials: Every record of a study, confirmations included.
        rule: Rule of the choice.
        scores: Scores of the validation images, by run.
        stopped: Why the search ended early; None if it did not. For messages.
        label: Name of the study, for messages.

    Raises:
        UserError: no trial completed, none has an allowed share of empty maps or meets the constraints, or no
            candidate was confirmed.
    """
    scores = scores or ImageScores()
    found = select_candidates(trials, rule, scores)
    if not found:
        raise _nothing_found(trials, rule, stopped, label)
    records = {trial.id: trial for trial in trials}
    tested = [
        confirm_results(trial, records, rule.seeds, base_seed=rule.base_seed, objective=rule.objectives.first)
        for trial in found
    ]
    sound = [candidate for candidate in tested if candidate.mean > -math.inf]
    if not sound:
        raise UserError(
            f"each of the best configurations ({', '.join(c.trial.id for c in tested)}) failed with another seed. "
            "Lower the learning rate or the weights in the space, or raise search.confirm.top."
        )
    # A search that its budget ended early may have confirmed only some candidates. A mean of fewer seeds is more likely
    # to be high by chance.
    most = max(len(candidate.confirmations) for candidate in sound)
    whole = [candidate for candidate in sound if len(candidate.confirmations) == most]
    sign = rule.words.sign
    whole.sort(key=lambda each: (sign * each.mean, *rank_key(each.trial, rule.objectives)), reverse=True)
    error = _standard_error(whole, scores)
    equal, best = [whole[0]], whole[0]
    if (then := rule.then) is not None:
        reach = min(rule.within * (error or 0.0), rule.words.margin)
        equal += [each for each in whole[1:] if sign * (whole[0].mean - each.mean) <= reach + _ROUNDING]
        best = max(equal, key=lambda candidate: rule.then_gain(candidate.mean_of(then)))  # of several maxima, the first
    return Choice(best, tuple(whole), tuple(each.trial.id for each in equal), error, rule)


_ROUNDING = 1e-12
"""Tolerance for rounding; two means of whole images over a few seeds that differ do so by more than this."""


def _standard_error(candidates: Sequence[ConfirmedResult], scores: ImageScores) -> float | None:
    """Returns the standard error of a difference of two candidates; None without scores of every run on the
    same images.
    """
    table = scores.table([[(run.id, run.last_epoch) for run in candidate.runs] for candidate in candidates])
    return None if table is None or len(table) < 2 or table.shape[2] < 2 else pooled_error(table)


def describe_rule(params: Any, *, when: str = "if there are masks enough", why: str = "") -> str:
    """Returns the rule of the choice in words, for the plan.

    Args:
        params: All parameters; `search.choose.then` may still be `auto`.
        when: Condition under which attention decides if it is `auto`.
        why: Why the metric is the one that decides; empty if there is nothing to say.
    """
    choose, words = params.search.choose, objective_words(params)
    if choose.then == "none":
        return f"the {words.best} mean validation {words.label} over all seeds"
    otherwise = otherwise_by(params)
    if choose.then == AUTO:
        then = f"{OF_ATTENTION[1]} {when}, else by {otherwise},"
        within = count_words(default_within(OF_ATTENTION[1]), "standard error")
        within += f" ({default_within(otherwise):g} if by {otherwise})"
    else:
        then, within = choose.then, count_words(default_within(choose.then), "standard error")
    if choose.within is not None:
        within = count_words(choose.within, "standard error")
    return (
        f"the best by {then} among those whose mean {words.label} lies within {within} and "
        f"{words.format_size(words.margin)} of the {words.best}"
    ) + (f"; {why}" if why else "")


def describe_choice(choice: ChoiceResult) -> str:
    """Returns why the best configuration is the best, in one sentence."""
    confirmed, equal, then = len(choice.confirmed), len(choice.equal), choice.then
    words = words_of(choice.metric, choice.margin)
    best = "the most accurate" if words.key == "accuracy" else f"the best by {words.label}"
    seeds = count_words(1 + choice.further_seeds, "seed")
    if confirmed == 1:
        return f"the only candidate, with {seeds}: no other trial ran in full, or search.confirm.top allows no more"
    of = f"of {confirmed} configurations with {seeds} each"
    if then is None:
        return f"{of}, {best} (search.choose.then: none)"
    error, margin = choice.standard_error, words.format_size(choice.margin, 2)
    if error is None:
        reach = "no standard error is known, so only equal values count as equal"
    else:
        reached = words.format_size(choice.within * error, 2)
        errors = f"{count_words(choice.within, 'standard error')} of their difference, {reached}"
        reach = f"no further apart than {errors}, and than {margin}"
    if equal == 1:
        return f"{of}, {best}; {words.label} tells it from all others ({reach})"
    said = f"{of}, {equal} cannot be told apart by {words.label} ({reach})"
    further, own = choice.further_value, choice.value
    if further is None:
        return f"{said}; {then} decided" + ("" if own is None else f" ({format_metric(then, own)})")
    return f"{said}; {then} decided ({format_metric(then, further)} over its further seeds)"


def finite_or_none(value: float | None) -> float | None:
    """Returns a figure for JSON, which cannot represent infinity and NaN: None for these."""
    return value if value is not None and math.isfinite(value) else None


def _nothing_found(trials: Sequence[TrialRecord], rule: ChoiceRule, stopped: str | None, label: str) -> UserError:
    """Returns the error that no configuration can be named the best, with the reason.

    Args:
        trials: Every record of the study.
        rule: Rule of the choice.
        stopped: Why the search ended early; None if it did not.
        label: Name of the study.
    """
    objectives: Objectives = rule.objectives
    completed = [trial for trial in trials if trial.number is not None and trial.state == COMPLETE]
    untrained = [trial for trial in trials if trial.number is not None and trial.state == INFEASIBLE]
    if (completed or untrained) and not any(objectives.is_feasible(trial) for trial in completed):
        learn = " With search.warm_start the new search learns from what ran in full." if completed else ""
        return UserError(
            f"no configuration that {label} tried meets search.constraints: {len(untrained)} were not trained since "
            f"they break a constraint, {len(completed)} ran in full.\n"
            f"{violated([*completed, *untrained], objectives)}\n"
            f"The trials are kept (`sar-search status`). Ease the constraint, or change the space.{learn}"
        )
    if completed:
        least = min(empty_share(trial) for trial in completed)
        return UserError(
            f"in every completed trial at least {least:.0%} of the maps were empty, more than search.max_empty_share "
            f"({rule.max_empty_share:.0%}), so the regulariser acted on few images. Lower the thresholds in the space, "
            "or raise search.max_empty_share."
        )
    reasons = {trial.reason for trial in trials if trial.number is not None and trial.state == FAILED and trial.reason}
    pruned = any(trial.number is not None and trial.state == PRUNED for trial in trials)
    nothing = "none failed; all were stopped early" if pruned else "none was started"
    said = "\n".join(f"  {reason}" for reason in sorted(reasons)[:3]) or f"  {nothing}"
    if stopped is not None:
        said += f"\n  ended early by {stopped}"
    return UserError(f"no trial of {label} completed:\n{said}\nChange params.yaml or the space and run again.")
