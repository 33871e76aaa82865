"""Which configuration is the best: the candidates that the search found, confirmed with further seeds.

The search names the `top` configurations by validation accuracy, of those that keep `search.constraints`; with several
objectives, of those on the Pareto front. Each of them, and each control, is then trained again with `seeds` further
seeds, so that no configuration wins by a lucky one: the best is the candidate with the highest mean over all of its
seeds, the search's own among them (every candidate has as many). How good it is said to be is the mean over the further
seeds alone, since the search's own value was picked for being high.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, FAILED, INFEASIBLE, OBJECTIVE, PRUNED, TrialRecord
from pipeline.tune.objectives.objectives import ACCURACY_ALONE, Objectives, violated

FIRST_SEED = 1000
"""Added to base.seed: retraining uses the seeds that follow it, so these two never meet."""


def select_candidates(
    trials: Iterable[TrialRecord], *, top: int, max_empty_share: float, objectives: Objectives = ACCURACY_ALONE
) -> list[TrialRecord]:
    """The `top` completed trials by last-epoch validation accuracy (ties: lower loss, then earlier), best first; of
    those of the same configuration, the best alone.

    Of those in `pareto_front` alone, if there are several objectives; else of `allowed_trials`.
    """
    found = (
        pareto_front(trials, max_empty_share, objectives)
        if objectives.is_multi_objective
        else allowed_trials(trials, max_empty_share, objectives)
    )
    different: dict[str, TrialRecord] = {}
    for trial in sorted(found, key=_rank, reverse=True):
        different.setdefault(json.dumps(trial.values, sort_keys=True, default=str), trial)
    return list(different.values())[:top]


def allowed_trials(trials: Iterable[TrialRecord], max_empty_share: float, objectives: Objectives) -> list[TrialRecord]:
    """The completed trials whose share of empty maps is allowed, and that keep every constraint."""
    completed = [trial for trial in trials if trial.number is not None and trial.state == COMPLETE]
    return [trial for trial in completed if empty_share(trial) <= max_empty_share and objectives.is_feasible(trial)]


def pareto_front(trials: Iterable[TrialRecord], max_empty_share: float, objectives: Objectives) -> list[TrialRecord]:
    """Those of `allowed_trials` that no other one of them dominates."""
    return objectives.pareto_front(allowed_trials(trials, max_empty_share, objectives))


def confirmation_runs(of: TrialRecord, seeds: int, *, base_seed: int) -> list[TrialRecord]:
    """The runs that repeat a trial or control with further seeds."""
    numbers = [base_seed + FIRST_SEED + index for index in range(1, seeds + 1)]
    return [
        TrialRecord(f"{of.id}-seed{seed}", None, dict(of.values), role=CONFIRMATION, seed=seed, of=of.id)
        for seed in numbers
    ]


@dataclass(frozen=True)
class ConfirmedResult:
    """A configuration with its values by seed. search_value: the search's own. confirmation_values: those of its
    confirmations, none if not asked.
    """

    trial: TrialRecord
    search_value: float
    confirmation_values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over all seeds; -inf if any of them failed: a configuration that fails with another seed is no best one."""
        values = (self.search_value, *self.confirmation_values)
        # fsum, since a plain sum depends on the order of the values, and a tie must not be broken by rounding.
        return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else -math.inf

    @property
    def confirmation_mean(self) -> float | None:
        """Over the further seeds; None without any."""
        return math.fsum(self.confirmation_values) / len(self.confirmation_values) if self.confirmation_values else None


def confirm_results(
    of: TrialRecord, records: Mapping[str, TrialRecord], seeds: int, *, base_seed: int
) -> ConfirmedResult:
    """A configuration with those of its confirmations that have ended; one that failed counts as NaN."""
    runs = [records.get(run.id) for run in confirmation_runs(of, seeds, base_seed=base_seed)]
    values = [run.metric(OBJECTIVE) if run.state == COMPLETE else math.nan for run in runs if run and run.state]
    return ConfirmedResult(of, of.metric(OBJECTIVE), tuple(values))


def choose_best(
    trials: Sequence[TrialRecord],
    *,
    top: int,
    seeds: int,
    base_seed: int,
    max_empty_share: float,
    objectives: Objectives = ACCURACY_ALONE,
    stopped: str | None = None,
    label: str = "the search",
) -> ConfirmedResult:
    """The best configuration, as the module says. trials: every record, confirmations among them.

    stopped: why the search ended early, if it did; label: what the trials are of. Both are for messages.

    Raises:
        UserError: no trial completed, none has an allowed share of empty maps or keeps the constraints, or no candidate
            was confirmed.
    """
    found = select_candidates(trials, top=top, max_empty_share=max_empty_share, objectives=objectives)
    if not found:
        raise _nothing_found(trials, max_empty_share, objectives, stopped, label)
    records = {trial.id: trial for trial in trials}
    tested = [confirm_results(trial, records, seeds, base_seed=base_seed) for trial in found]
    sound = [candidate for candidate in tested if candidate.mean > -math.inf]
    if not sound:
        raise UserError(
            f"each of the best configurations ({', '.join(c.trial.id for c in tested)}) failed with another seed. "
            "Lower the learning rate or the weights in the space, or raise search.confirm.top."
        )
    # A search that its budget ended early may have confirmed some candidates only; means of fewer seeds are luckier.
    most = max(len(candidate.confirmation_values) for candidate in sound)
    whole = [candidate for candidate in sound if len(candidate.confirmation_values) == most]
    return max(whole, key=lambda candidate: (candidate.mean, *_rank(candidate.trial)))


def empty_share(record: TrialRecord) -> float:
    """The largest share of empty maps of any method at a trial's last epoch, on the validation images."""
    metrics = record.epochs[record.last_epoch]
    return max((value for name, value in metrics.items() if name.endswith("/empty_share")), default=0.0)


def _rank(trial: TrialRecord) -> tuple[float, float, int]:
    loss = trial.metric("val/loss")
    return trial.metric(OBJECTIVE), -math.inf if math.isnan(loss) else -loss, -(trial.number or 0)


def _nothing_found(
    trials: Sequence[TrialRecord], max_empty_share: float, objectives: Objectives, stopped: str | None, label: str
) -> UserError:
    completed = [trial for trial in trials if trial.number is not None and trial.state == COMPLETE]
    untrained = [trial for trial in trials if trial.number is not None and trial.state == INFEASIBLE]
    if (completed or untrained) and not any(objectives.is_feasible(trial) for trial in completed):
        learn = " With search.warm_start the new search learns from what ran in full." if completed else ""
        return UserError(
            f"no configuration that {label} tried keeps search.constraints: {len(untrained)} were not trained since "
            f"they break one, {len(completed)} ran in full.\n{violated([*completed, *untrained], objectives)}\n"
            f"What was tried is kept (`sar-search status`). Ease the constraint, or change the space.{learn}"
        )
    if completed:
        least = min(empty_share(trial) for trial in completed)
        return UserError(
            f"every completed trial left at least {least:.0%} of its maps empty, more than search.max_empty_share "
            f"({max_empty_share:.0%}): its regulariser acts on few images. Lower the thresholds in the space, or raise "
            "the parameter."
        )
    reasons = {trial.reason for trial in trials if trial.number is not None and trial.state == FAILED and trial.reason}
    pruned = any(trial.number is not None and trial.state == PRUNED for trial in trials)
    nothing = "none failed; all were stopped early" if pruned else "none was started"
    said = "\n".join(f"  {reason}" for reason in sorted(reasons)[:3]) or f"  {nothing}"
    if stopped is not None:
        said += f"\n  ended early by {stopped}"
    return UserError(f"no trial of {label} completed:\n{said}\nChange params.yaml or the space and run again.")
