"""The Optuna study of a search, driven by ask and tell.

The study lives in memory and is rebuilt from the ledger. Every proposal is drawn from a stream that depends on the seed
and the trial's number alone, so that a search that was interrupted, or extended, proposes what an unbroken one would
have, given the same results. A trial that the scheduler stopped is told as pruned, with its intermediate values.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState, create_trial

from pipeline.errors import UserError
from pipeline.tune.ledger import COMPLETE, PRUNED, TrialRecord
from pipeline.tune.space import SearchSpace

_STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}
EMPTY_SHARE = "empty_share"
"""Constraint of the study: the share of empty maps beyond what is allowed."""


class Proposer:
    """Proposes settings and learns from results; values are maximised.

    sampler: "tpe" or "random". startup_trials: how many TPE draws at random first. seed: of all proposals.
    """

    def __init__(self, space: SearchSpace, *, sampler: str, startup_trials: int, seed: int, name: str) -> None:
        # Without this, optuna prints a line for every study and trial, between the lines of our own progress.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._distributions: dict[str, BaseDistribution] = space.distributions()
        self._sampler, self._startup_trials, self._seed = sampler, startup_trials, seed
        self._name = name
        self._study = optuna.create_study(direction="maximize", study_name=name)
        self._open: dict[int, Trial] = {}

    @property
    def proposed(self) -> int:
        """How many settings have been proposed so far."""
        return len(self._study.get_trials(deepcopy=False))

    def propose(self) -> tuple[int, dict[str, Any]]:
        """The next setting: its number and its values by dotted path."""
        self._study.sampler = self._seeded(self.proposed)
        trial = self._study.ask(self._distributions)
        self._open[trial.number] = trial
        return trial.number, self._space.decode(trial.params)

    def restore(self, record: TrialRecord) -> None:
        """Take over a trial of the ledger, as running; follow with `report` and `finish`. In order of the numbers."""
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING, params=self._space.encode(record.values), distributions=self._distributions
            )
        )
        frozen = self._study.get_trials(deepcopy=False)[-1]
        if frozen.number != record.number:
            raise UserError(f"the ledger has no trial {frozen.number}; move its folder away to search anew.")
        self._open[frozen.number] = Trial(self._study, frozen._trial_id)

    def report(self, number: int, epoch: int, value: float) -> None:
        """An intermediate value. One that was reported already is ignored."""
        trial = self._open[number]
        if epoch not in self._study.get_trials(deepcopy=False)[number].intermediate_values:
            trial.report(value, epoch)

    def finish(self, number: int, state: str, value: float, *, constraints: Mapping[str, float]) -> None:
        """The end of a trial. value: at its last epoch. constraints: feasible at 0 or below."""
        trial = self._open.pop(number)
        for name, amount in constraints.items():
            trial.set_constraint(name, amount)
        told = _STATES.get(state, TrialState.FAIL)
        self._study.tell(trial, value if told is TrialState.COMPLETE else None, state=told)

    def importances(self) -> dict[str, float]:
        """Share of each parameter in the variance among completed trials (PED-ANOVA); empty when there are too few."""
        completed = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(completed) < 4 or len({trial.value for trial in completed}) < 2:
            return {}
        found = optuna.importance.get_param_importances(self._study)
        return {name: float(share) for name, share in found.items()}

    def save(self, path: Path) -> None:
        """Write the study as an SQLite file that optuna-dashboard opens, whole or not at all."""
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{partial}")
        copy = optuna.create_study(storage=storage, study_name=self._name, direction="maximize")
        copy.add_trials(self._study.get_trials(deepcopy=False))
        storage.remove_session()
        storage.engine.dispose()
        os.replace(partial, path)

    def _seeded(self, number: int) -> BaseSampler:
        import numpy as np

        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        if self._sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=self._startup_trials)
