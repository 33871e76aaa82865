"""Entry of a trial on a worker: checks the node first. Imports nothing that an unsuitable node may lack."""

from ray import tune

from pipeline.cluster.late_nodes import check_this_node
from pipeline.config import Values
from pipeline.tune.ray.trial_spec import STACK, TrialSpec

REFUSED = "refused"
"""Key of a report that names the node which the trial must leave, and why; the trial has not begun."""


def enter_trial(config: Values, task: TrialSpec) -> None:
    """Runs a trial, or a stack of confirmations, after an inspection of its node if that joined later.

    `pipeline.tune.ray.trainable.run_trial` runs a trial, `pipeline.tune.ray.stacked_trial.run_stack` a stack.

    If the inspection (`check_this_node`) finds a fault, nothing is trained. The fault is reported under `REFUSED`, and
    the driver queues the trial again for another node.
    """
    refusal = check_this_node(task.admission) if task.admission else None
    if refusal is not None:
        why = {"node": refusal.node, "why": list(refusal.why)}
        tune.report({"epoch": 0, "objective": float("nan"), "metrics": {}, "failed": "refused", REFUSED: why})
        return
    if STACK in config:
        from pipeline.tune.ray.stacked_trial import run_stack

        run_stack(config, task)
        return
    from pipeline.tune.ray.trainable import run_trial

    run_trial(config, task)
