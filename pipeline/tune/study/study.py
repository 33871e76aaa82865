"""Adapter to an Optuna study, which is asked for configurations and told every result with the values of its epochs."""

import copy
import math
import statistics
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from pipeline.config import Values
from pipeline.config.schema.search_section import SamplerParams
from pipeline.errors import UserError
from pipeline.files.atomic import replace_file
from pipeline.files.paths import database_uri
from pipeline.tune.journal.records import COMPLETE, INFEASIBLE, MIN_COMPLETED, PRUNED, TrialRecord
from pipeline.tune.objectives.objectives import ACCURACY_ALONE, Objectives
from pipeline.tune.objectives.pareto import count_dominating
from pipeline.tune.space import Encoded, SearchSpace
from pipeline.tune.study.extrapolation import extrapolate
from pipeline.tune.study.local_search import LocalSearch
from pipeline.tune.study.prior import Prior
from pipeline.tune.study.samplers import (
    LOCAL,
    NON_ADAPTIVE,
    make_sampler,
    rank_key,
    sample_blind,
    sample_near_prior,
)
from pipeline.tune.study.untried import Untried

_STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, INFEASIBLE: TrialState.PRUNED}
"""Optuna's states. Infeasible trials count as pruned before their first epoch, since Optuna learns nothing from
failures.
"""
EMPTY_SHARE = "empty_share"
"""Constraint of the study: the share of empty maps beyond the allowed one."""
CONSTRAINTS = "constraints:"
"""Beginning of the keys under which Optuna stores constraints of a trial."""
MAX_VISIBLE_TRIALS = 200
"""Largest number of ended trials that a sampler learns from, half of them the best and half the newest. It
bounds the time of a proposal, however many trials there are.
"""

Notes = Mapping[str, Any]
"""Sampler's notes about a trial: Optuna's system attributes."""


class _UncheckedTrial(FrozenTrial):  # type: ignore[misc]
    """Trial that a sampler sees, without Optuna's checks and deep copies.

    Optuna checks and deeply copies every trial that enters a study, which took most of a proposal's time. These
    trials were checked when they entered the search's own study, and nothing modifies them.
    """

    @classmethod
    def of(cls, trial: FrozenTrial) -> FrozenTrial:
        shown = copy.copy(trial)
        shown.__class__ = cls
        return shown

    def __deepcopy__(self, memo: dict[int, Any]) -> "_UncheckedTrial":
        return copy.copy(self)

    def _validate(self) -> None: ...


class StudyAdapter:
    """Study that proposes configurations and learns from results.

    No configuration is proposed twice while others are left (see `pipeline.tune.study.untried`).

    Args:
        space: The search space.
        sampler: `search.sampler`.
        seed: Seed of all proposals.
        name: The study's name.
        points: Configurations by dotted path, complete or partial, that are proposed first. Missing values come
            from the recipe, or are drawn like the start.
        recipe: Values by dotted path around which a start from the recipe is drawn, for dimensions without a
            `prior:`.
        prior_trials: Results of earlier searches over the same space, which the sampler learns from too.
        objectives: Objectives and constraints. With several objectives, values before the last epoch are not
            used, and `local_gp` proposes as `tpe` does. With a metric that decides among equals (`then`) by
            which trials may go on too, `local_gp` proposes for it and the first objective in turn.
        epochs: Epochs of a full trial.

    Attributes:
        moved: Function that replaces each proposed configuration; simulations use it to offer recorded ones
            only. None to leave proposals unchanged.
        proposed: Number of configurations proposed so far.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: SamplerParams,
        *,
        seed: int,
        name: str,
        points: Sequence[Values] = (),
        recipe: Values = MappingProxyType({}),
        prior_trials: Sequence[FrozenTrial] = (),
        objectives: Objectives = ACCURACY_ALONE,
        epochs: int = 1,
    ) -> None:
        # By default Optuna prints a line for every study and trial, which would interrupt the progress display.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._distributions: dict[str, BaseDistribution] = space.distributions()
        self._sampler, self._seed = sampler, seed
        self._name, self._objectives = name, objectives
        self._study = optuna.create_study(directions=objectives.directions, study_name=name)
        self._prior = Prior(space, recipe if sampler.start == "recipe" else {})
        self._points, self._prior_trials = points, [_UncheckedTrial.of(trial) for trial in prior_trials]
        self._untried = Untried(space)
        for trial in prior_trials:
            self._untried.add_prior(trial.params)
        self._learned = len(prior_trials)
        # The local search needs a single value for each trial, which several objectives do not give.
        self._local: LocalSearch | None = None
        if sampler.name == LOCAL and not objectives.is_multi_objective:
            self._local = LocalSearch(space, self._prior, objectives.stopping_metrics, epochs)
            for number, trial in enumerate(prior_trials, -len(prior_trials)):
                self._local.start(number, trial.params)
                for epoch, value in (trial.intermediate_values or {epochs: float(trial.value or 0.0)}).items():
                    self._local.report(number, epoch, objectives.gains({objectives.first: value}))
                self._local.hold(number, _constraints(trial))
        self.moved: Callable[[Values], Values] | None = None
        self._open: dict[int, Trial] = {}
        self._reported: dict[int, dict[int, float]] = {}
        self._paused: dict[int, FrozenTrial] = {}
        # Ended trials that did not fail, sorted by number. Optuna copies its list of all trials at every request, so
        # they are stored here as well.
        self._ended: list[FrozenTrial] = []
        self.proposed = 0

    def ask(self) -> tuple[int, Values]:
        """Returns the number of the next configuration, and its values by dotted path."""
        number = self.proposed
        params, notes = self._new(number)
        if self.moved is not None:
            params = self._space.encode(self.moved(self._space.decode(params)))
        self._add(params, notes)
        return number, self._space.decode(params)

    @property
    def num_left(self) -> int | None:
        """Number of configurations that have not been proposed; None if the space is infinite."""
        return self._untried.left

    def num_to_propose(self, trials: int) -> int:
        """Returns how many of this many trials are still to be proposed; no more than there are configurations left."""
        more = max(0, trials - self.proposed)
        return more if self.num_left is None else min(more, self.num_left)

    def _new(self, number: int) -> tuple[Encoded, Notes]:
        """Returns the same as `_choose`, but replaces a configuration that has been proposed already by a new one."""
        params, notes = self._choose(number)
        point = self._points[number] if number < len(self._points) else {}
        if self._untried.is_repeat(params) if point else not self._untried.new(params):
            seed = int(np.random.SeedSequence([self._seed, number, 1]).generate_state(1)[0])
            return self._untried.nearest(params, seed=seed, fixed=point.keys()), {}
        return params, notes

    def _choose(self, number: int) -> tuple[Encoded, Notes]:
        """Returns the encoded values of a proposal, and the sampler's notes about it."""
        sampler, count = self._sampler, len(self._points)
        start = sampler.name if sampler.name in NON_ADAPTIVE else sampler.start
        if number < count:
            rest = sample_blind("random" if start == "random" else "sobol", self._space, seed=self._seed, number=number)
            centers = self._prior.centers if start == "recipe" else {}
            return rest | centers | self._space.encode(self._points[number]), {}
        if sampler.name in NON_ADAPTIVE or self._learned < sampler.startup_trials:
            if start == "recipe":
                return sample_near_prior(self._space, self._prior, seed=self._seed, number=number, first=count), {}
            if start == "grid":
                return self._next_of_grid(number - count), {}
            return sample_blind(start, self._space, seed=self._seed, number=number), {}
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        if self._local is not None:
            return self._local.propose(number, seed=seed), {}
        study = optuna.create_study(
            directions=self._objectives.directions,
            sampler=make_sampler("tpe" if sampler.name == LOCAL else sampler.name, seed=seed),
        )
        study.add_trials(self._visible_trials())
        # Optuna's Gaussian process divides 0 by 0 if one point is better than all others by orders of magnitude, as
        # happens under constraints that few trials meet. It then continues from that point alone.
        with np.errstate(invalid="ignore"):
            study.ask(self._distributions)
        asked = study.get_trials(deepcopy=False)[-1]
        return asked.params, asked.system_attrs

    def _next_of_grid(self, place: int) -> Encoded:
        """Returns the first new combination in the grid's order, from a place on and around its end."""
        size = self._space.size() or 1
        for index in range(place, place + size):
            params = sample_blind("grid", self._space, seed=self._seed, number=index)
            if self._untried.new(params):
                break
        return params

    def _add(self, params: Encoded, notes: Notes) -> int:
        """Adds a running trial, and returns its number."""
        number = self.proposed
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(params),
                distributions=self._distributions,
                system_attrs=dict(notes),
            )
        )
        # In a study in memory, a trial's id is its number.
        self._open[number] = Trial(self._study, number)
        self._reported[number] = {}
        if self._local is not None:
            self._local.start(number, params)
        self._untried.add(params)
        self.proposed += 1
        return number

    def replay(self, record: TrialRecord) -> None:
        """Adds a trial of the journal as running; `report` and `tell` follow. Trials must be added in the order
        of their numbers.

        Raises:
            UserError: the journal lacks the trial before this one.
        """
        number = self._add(self._space.encode(record.values), {})
        if number != record.number:
            raise UserError(
                f"the journal of the search has no trial {number}; to search anew, move the search's folder away "
                "(`sar-search status ID` names it)."
            )

    def report(self, number: int, epoch: int, value: float, others: Mapping[str, float] = MappingProxyType({})) -> None:
        """Records the value of an epoch; an epoch that was reported already is ignored.

        Args:
            number: The trial's number.
            epoch: Number of the epoch, counted from 1.
            value: Value of the first objective.
            others: Further metrics of this epoch; only metrics by which trials go on are used.
        """
        if epoch in self._reported[number]:
            return
        self._reported[number][epoch] = value
        if self._local is not None:
            self._local.report(number, epoch, self._objectives.gains({**others, self._objectives.first: value}))
        if not self._objectives.is_multi_objective:  # Optuna has no intermediate values of several objectives
            self._open[number].report(value, epoch)

    def pause(self, number: int, *, constraints: Mapping[str, float]) -> None:
        """Records that a trial waits at a rung. The sampler learns from it as from a trial that was stopped there."""
        values = {} if self._objectives.is_multi_objective else self._reported[number]
        last = values[max(values)] if values else math.nan
        paused = create_trial(
            state=TrialState.PRUNED,
            value=None if math.isnan(last) else last,
            params=self._open[number].params,
            distributions=self._distributions,
            intermediate_values=dict(values),
            system_attrs={f"{CONSTRAINTS}{name}": amount for name, amount in constraints.items()},
        )
        paused.number = number
        self._paused[number] = paused
        self._learn(paused)

    def resume(self, number: int) -> None:
        """Records that a trial that waited goes on, or has ended."""
        if (paused := self._paused.pop(number, None)) is not None:
            self._ended = [trial for trial in self._ended if trial.number != paused.number]
            if self._local is not None:
                self._local.resume(number)
            self._learned -= 1

    def _learn(self, ended: FrozenTrial) -> None:
        if self._local is not None:
            self._local.hold(ended.number, _constraints(ended), failed=ended.state not in _STATES.values())
        if ended.state is not TrialState.FAIL:
            insort(self._ended, _UncheckedTrial.of(ended), key=lambda trial: trial.number)
            self._learned += 1

    def tell(self, number: int, state: str, *values: float, constraints: Mapping[str, float]) -> None:
        """Records the end of a trial.

        Args:
            number: The trial's number.
            state: Its final state (see `pipeline.tune.journal.records`).
            values: Objectives at its last epoch, in order.
            constraints: Violation of each constraint by name; a constraint is met at 0 or below.
        """
        self.resume(number)
        trial = self._open.pop(number)
        del self._reported[number]
        for name, amount in constraints.items():
            trial.set_constraint(name, amount)
        optuna_state = _STATES.get(state, TrialState.FAIL)
        if (
            optuna_state is TrialState.COMPLETE
            and self._objectives.is_multi_objective
            and not all(map(math.isfinite, values))
        ):
            optuna_state = TrialState.FAIL
        ended = self._study.tell(
            trial, list(values) if optuna_state is TrialState.COMPLETE else None, state=optuna_state
        )
        self._learn(ended)

    def _visible_trials(self) -> list[FrozenTrial]:
        """Returns the trials that a sampler sees: results, then running trials, each in the order of their numbers."""
        shown = [*self._prior_trials, *self._ended]
        if len(shown) > MAX_VISIBLE_TRIALS:
            half = MAX_VISIBLE_TRIALS // 2
            older = self._ordered(shown[:-half])[-half:]
            kept = {id(trial) for trial in (*older, *shown[-half:])}
            shown = [trial for trial in shown if id(trial) in kept]
        if self._sampler.name == "gp":
            shown = with_values(shown, self._objectives)
        running = [
            _UncheckedTrial.of(create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions))
            for params in self._running_params()
        ]
        return shown + running

    def _running_params(self) -> list[Encoded]:
        """Returns the encoded values of trials that neither have ended nor wait, in the order of their numbers."""
        return [trial.params for number, trial in sorted(self._open.items()) if number not in self._paused]

    def _ordered(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Returns ended trials, the best last; with several objectives, the trials that the fewest others
        dominate come last.
        """
        if not self._objectives.is_multi_objective:
            return sorted(trials, key=partial(rank_key, minimize=self._objectives.directions[0] == "minimize"))
        whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        counts = count_dominating([self._objectives.maximised(trial.values) for trial in whole])
        dominators = {id(trial): int(count) for trial, count in zip(whole, counts, strict=True)}
        return sorted(trials, key=lambda trial: (-_violation(trial), -dominators.get(id(trial), len(trials))))

    def importances(self) -> dict[str, float]:
        """Returns the share of each parameter in the variance of the first objective among completed trials
        (PED-ANOVA).

        Returns:
            Shares by dotted path; empty if fewer than `MIN_COMPLETED` trials have completed, whose shares would
            be chance.
        """
        completed = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(completed) < MIN_COMPLETED or len({trial.values[0] for trial in completed}) < 2:
            return {}
        target = (lambda trial: trial.values[0]) if self._objectives.is_multi_objective else None
        found = optuna.importance.get_param_importances(self._study, target=target)
        return {name: float(share) for name, share in found.items()}

    def save(self, path: Path) -> None:
        """Writes the study, atomically, as an SQLite file that optuna-dashboard opens."""
        with replace_file(path) as partial:
            storage = optuna.storages.RDBStorage(database_uri(partial))
            copy = optuna.create_study(storage=storage, study_name=self._name, directions=self._objectives.directions)
            copy.add_trials(self._study.get_trials(deepcopy=False))
            storage.remove_session()
            storage.engine.dispose()


def with_values(trials: Sequence[FrozenTrial], objectives: Objectives = ACCURACY_ALONE) -> list[FrozenTrial]:
    """Returns trials as completed ones. A trial that was stopped early gets the value expected of a full run.

    A Gaussian process learns from final values alone; `extrapolate` estimates them. A stopped trial without
    an estimate gets the worst values seen if it breaks a constraint, and is left out otherwise.

    A trial that lacks a constraint gets the median of the other trials, since the process of a constraint must
    be fitted to all trials. If no trial breaks a constraint, all constraints are removed.

    Args:
        trials: Ended and paused trials.
        objectives: Objectives and constraints.
    """
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    worst = [min(column) for column in zip(*(objectives.maximised(trial.values) for trial in whole), strict=True)]
    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED and _has_last_value(trial)]
    estimates = extrapolate(
        [trial.intermediate_values for trial in stopped], [(t.intermediate_values, t.values[0]) for t in whole]
    )
    estimated = {id(trial): value for trial, value in zip(stopped, estimates, strict=True)}
    seen = []
    for trial in trials:
        if trial.state == TrialState.PRUNED:
            values = objectives.maximised(worst) if _violation(trial) > 0 and worst else None
            if id(trial) in estimated:
                values = [estimated[id(trial)]]
            if values is None:
                continue
            trial = copy.copy(trial)
            trial.state, trial.values = TrialState.COMPLETE, values
        seen.append(trial)
    if not any(_violation(trial) > 0 for trial in seen):
        # A constraint that no trial breaks would need a second process, which would predict the same everywhere.
        return [_with_constraints(trial, {}) for trial in seen]
    names = dict.fromkeys(name for trial in seen for name in _constraints(trial))
    usual = {name: statistics.median(c[name] for c in map(_constraints, seen) if name in c) for name in names}
    return [_with_constraints(trial, {**usual, **_constraints(trial)}) for trial in seen]


def _has_last_value(trial: FrozenTrial) -> bool:
    values = trial.intermediate_values
    return bool(values) and not math.isnan(values[max(values)])


def _violation(trial: FrozenTrial) -> float:
    return sum(amount for amount in _constraints(trial).values() if amount > 0)


def _constraints(trial: FrozenTrial) -> dict[str, float]:
    return {key: value for key, value in trial.system_attrs.items() if key.startswith(CONSTRAINTS)}


def _with_constraints(trial: FrozenTrial, constraints: Mapping[str, float]) -> FrozenTrial:
    trial = copy.copy(trial)
    others = {key: value for key, value in trial.system_attrs.items() if not key.startswith(CONSTRAINTS)}
    trial.system_attrs = {**others, **constraints}
    return trial
