"""Studies of a search: the method's own and, with `search.compare: same_budget`, one of its control."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import Params, Values
from pipeline.tune.journal.records import CONTROL_STUDY, METHOD, TRIAL, TrialRecord
from pipeline.tune.objectives.objectives import objectives_from_params
from pipeline.tune.schedulers.factory import make_scheduler
from pipeline.tune.schedulers.rungs import first_rung
from pipeline.tune.schedulers.scheduler import Scheduler
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.study import StudyAdapter
from pipeline.tune.study.warm_start import PriorResult, as_trials

SAME_BUDGET = "same_budget"


@dataclass
class StudyWithScheduler:
    """Study with its scheduler.

    Attributes:
        name: `METHOD` or `CONTROL_STUDY`.
        prefix: Prefix of its trials' ids.
        adapter: The Optuna study.
        scheduler: The scheduler of its trials.
        fixed: Parameter values that all its trials have, by dotted path.
    """

    name: str
    prefix: str
    adapter: StudyAdapter
    scheduler: Scheduler
    fixed: Values

    def ask(self) -> TrialRecord:
        """Returns the next trial."""
        number, values = self.adapter.ask()
        return TrialRecord(f"{self.prefix}{number:04d}", number, {**values, **self.fixed}, role=TRIAL, study=self.name)


def make_studies(
    params: Params, space: SearchSpace, fingerprint: str, prior_results: Sequence[PriorResult] = ()
) -> dict[str, StudyWithScheduler]:
    """Returns the studies by name.

    The control study has the same recipe dimensions, sampler, scheduler and seed as the method's own.

    Args:
        params: All parameters.
        space: The search space.
        fingerprint: The search's fingerprint, after which the studies are named.
        prior_results: Results of a warm start, for the method's own study.
    """
    first = first_rung(params, space)
    studies = {METHOD: _make_study(METHOD, "t", params, space, first, fingerprint, {}, prior_results)}
    recipe = space.recipe()
    if num_studies(params, space) == 2:
        # Dimensions of the recipe are tuned even if the control has a value of its own for them.
        control = space.controls[params.retrain.control]
        fixed = {path: value for path, value in control.items() if path not in recipe.dimensions}
        studies[CONTROL_STUDY] = _make_study(CONTROL_STUDY, "c", params, recipe, first, fingerprint, fixed)
    return studies


def num_studies(params: Params, space: SearchSpace) -> int:
    """Returns the number of studies: 2 if a control study is requested and the space leaves it something to
    tune, else 1.

    Args:
        params: All parameters.
        space: The search space.
    """
    return 2 if params.search.compare == SAME_BUDGET and space.recipe().dimensions else 1


def _make_study(
    name: str,
    prefix: str,
    params: Params,
    space: SearchSpace,
    first: int,
    fingerprint: str,
    fixed: Values,
    prior_results: Sequence[PriorResult] = (),
) -> StudyWithScheduler:
    """Returns one study with its scheduler.

    Args:
        name: `METHOD` or `CONTROL_STUDY`.
        prefix: Prefix of its trials' ids.
        params: All parameters.
        space: The space of this study.
        first: The first rung.
        fingerprint: The search's fingerprint.
        fixed: Parameter values that all its trials have.
        prior_results: Results of a warm start.
    """
    search, objectives = params.search, objectives_from_params(params)
    recipe = {path: params.value(path) for path in space.recipe().dimensions}
    adapter = StudyAdapter(
        space,
        search.sampler,
        seed=params.base.seed,
        name=fingerprint[:12] if name == METHOD else f"{fingerprint[:12]}-{name}",
        points=list(search.points.values()) if name == METHOD else (),
        recipe={path: value for path, value in recipe.items() if not space.values_outside({path: value})},
        prior_trials=as_trials(prior_results, space, objectives),
        objectives=objectives,
        epochs=params.train.epochs,
    )
    scheduler = make_scheduler(search.scheduler, params.train.epochs, first, objectives.stopping_metrics)
    return StudyWithScheduler(name, prefix, adapter, scheduler, fixed)
