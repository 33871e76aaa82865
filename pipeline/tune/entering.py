"""The first that a worker does of a trial: see whether its node will do. Imports nothing that such a node may lack."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from pipeline.cluster.late import Admission, refused_here
from pipeline.cluster.ship import Parcel
from pipeline.models.settings import Weights

REFUSED = "refused"
"""In a report: the node that the trial must leave, and why; it has not begun."""


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a search share. params: as in params.yaml.

    threads, gpus: what a trial may use; a share of a GPU is a share of its memory too. weights: what each specification
    of pretrained weights was resolved to when the search started; no trial looks one up again. parcel: the same files,
    where they may have to be found elsewhere on the node that a trial runs on. admission: what a node that has joined
    meanwhile is held against; None where there is none.
    """

    params: Mapping[str, Any]
    prepared: Path
    split: Path
    threads: int
    gpus: float
    weights: Mapping[str, Weights] = field(default_factory=dict)
    parcel: Parcel | None = None
    admission: Admission | None = None


def enter_trial(config: Mapping[str, Any], task: TrialTask) -> None:
    """Run a trial (see `pipeline.tune.trial.run_trial`), unless its node will not do, which is reported."""
    refusal = refused_here(task.admission) if task.admission else None
    if refusal is not None:
        why = {"node": refusal.node, "why": list(refusal.why)}
        tune.report({"epoch": 0, "objective": float("nan"), "metrics": {}, "failed": "refused", REFUSED: why})
        return
    from pipeline.tune.trial import run_trial

    run_trial(config, task)
