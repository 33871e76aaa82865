"""The studies of a search: the method's own and, with `search.compare: same_budget`, one of its control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import Params
from pipeline.tune.journal.journal import CONTROL_STUDY, METHOD, TRIAL, TrialRecord
from pipeline.tune.objectives.objectives import goals_of
from pipeline.tune.schedulers.rules import StoppingRule, make_rule
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.study import Proposer
from pipeline.tune.study.warm_start import Known, as_trials

SAME_BUDGET = "same_budget"


@dataclass
class Arm:
    """A study and its stopping rule.

    name: METHOD or CONTROL_STUDY. prefix: of its trials' ids. fixed: values that all have.
    """

    name: str
    prefix: str
    proposer: Proposer
    rule: StoppingRule
    fixed: Mapping[str, Any]

    def propose(self) -> TrialRecord:
        """The next trial."""
        number, values = self.proposer.propose()
        return TrialRecord(self.id_of(number), number, {**values, **self.fixed}, role=TRIAL, study=self.name)

    def id_of(self, number: int) -> str:
        return f"{self.prefix}{number:04d}"


def make_arms(params: Params, space: SearchSpace, fingerprint: str, known: Sequence[Known] = ()) -> dict[str, Arm]:
    """The studies by name. The control's own has the same recipe dimensions, sampler, scheduler and seed.

    known: results that the method's own study has beforehand.
    """
    arms = {METHOD: _arm(METHOD, "t", params, space, fingerprint, {}, known)}
    recipe = space.recipe()
    if studies_of(params, space) == 2:
        # What the recipe varies is tuned, also where the control has a value of its own for it.
        control = space.controls[params.retrain.control]
        fixed = {path: value for path, value in control.items() if path not in recipe.dimensions}
        arms[CONTROL_STUDY] = _arm(CONTROL_STUDY, "c", params, recipe, fingerprint, fixed)
    return arms


def studies_of(params: Params, space: SearchSpace) -> int:
    """1, or 2 where the control has a study of its own: if it is asked for, and something is left to tune."""
    return 2 if params.search.compare == SAME_BUDGET and space.recipe().dimensions else 1


def _arm(
    name: str,
    prefix: str,
    params: Params,
    space: SearchSpace,
    fingerprint: str,
    fixed: Mapping[str, Any],
    known: Sequence[Known] = (),
) -> Arm:
    search, goals = params.search, goals_of(params)
    recipe = {path: params.value(path) for path in space.recipe().dimensions}
    proposer = Proposer(
        space,
        search.sampler,
        seed=params.base.seed,
        name=fingerprint[:12] if name == METHOD else f"{fingerprint[:12]}-{name}",
        points=list(search.points.values()) if name == METHOD else (),
        recipe={path: value for path, value in recipe.items() if not space.outside({path: value})},
        known=as_trials(known, space, goals),
        goals=goals,
    )
    return Arm(name, prefix, proposer, make_rule(search.scheduler, params.train.epochs), fixed)
