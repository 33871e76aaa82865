"""Number of seeds of an arm that one worker trains together: a given one, or that which is fastest on its GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from pipeline.models.stacked_network import CannotStack
from pipeline.stages.retrain.worker import ROLE, RetrainJob, open_run
from pipeline.train.stacked.stack_speed import StackChoice


@dataclass(frozen=True)
class StackQuestion:
    """Question to a worker about the runs of an arm.

    Attributes:
        job: One of the runs.
        most: Number of runs that one worker may train together.
        measured: Whether the fastest number is measured; otherwise `most` is taken where the runs can be stacked.
    """

    job: RetrainJob
    most: int
    measured: bool


def choose_stack(question: StackQuestion) -> StackChoice:
    """Returns how many runs are trained together, as a worker with the resources of a run finds it.

    Args:
        question: The question.
    """
    from pipeline.assembly import choose_stack_size

    params, data, weights = open_run(question.job)
    try:
        return choose_stack_size(
            params, data, most=question.most, measured=question.measured, role=ROLE, weights=weights
        )
    except CannotStack as error:
        return StackChoice(1, str(error))


def group_runs(jobs: Sequence[RetrainJob], choices: Mapping[tuple[str, int], StackChoice]) -> list[list[int]]:
    """Returns the indices of the runs that each worker trains together, in the order of their first runs.

    Args:
        jobs: The runs.
        choices: The choice for every arm and fold, as `arm_of` names it.
    """
    groups: dict[tuple[tuple[str, int], int], list[int]] = {}
    counters = {arm: count() for arm in choices}
    for index, job in enumerate(jobs):
        arm = arm_of(job)
        groups.setdefault((arm, next(counters[arm]) // choices[arm].size), []).append(index)
    return list(groups.values())


def arm_of(job: RetrainJob) -> tuple[str, int]:
    """Returns the arm and the fold of a run, whose runs differ in their seeds alone.

    Args:
        job: The run.
    """
    return job.arm, job.fold
