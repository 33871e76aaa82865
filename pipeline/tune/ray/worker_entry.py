"""The first that a worker does of a trial: see whether its node will do. Imports nothing that such a node may lack."""

from ray import tune

from pipeline.cluster.late_nodes import check_this_node
from pipeline.config import Values
from pipeline.tune.ray.trial_spec import TrialSpec

REFUSED = "refused"
"""In a report: the node that the trial must leave, and why; it has not begun."""


def enter_trial(config: Values, task: TrialSpec) -> None:
    """Run a trial (see `pipeline.tune.ray.trainable.run_trial`), unless its node will not do, which is reported."""
    refusal = check_this_node(task.admission) if task.admission else None
    if refusal is not None:
        why = {"node": refusal.node, "why": list(refusal.why)}
        tune.report({"epoch": 0, "objective": float("nan"), "metrics": {}, "failed": "refused", REFUSED: why})
        return
    from pipeline.tune.ray.trainable import run_trial

    run_trial(config, task)
