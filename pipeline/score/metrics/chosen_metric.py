"""The metric that the parameters ask for, with the margin that goes with it."""

from dataclasses import replace

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.score.metrics.metric import METRICS, Metric


def find_metric(name: str) -> Metric:
    """A metric by its name, or a user's function by its specification.

    Raises:
        UserError: as `load_metric`.
    """
    if name in METRICS:
        return METRICS[name]
    # It imports torch with the plug-ins, for which commands that only read do not wait.
    from pipeline.score.metrics.user_metric import load_metric

    return load_metric(name)


def chosen_metric(params: Params) -> Metric:
    """`evaluate.metric`; its margin is `evaluate.margin`, or where that is null the metric's own.

    Raises:
        UserError: as `find_metric`; a user's function without a margin; or a margin of a whole share.
    """
    metric, margin = find_metric(params.evaluate.metric), params.evaluate.margin
    margin = metric.margin if margin is None else margin
    if margin is None:
        raise UserError(
            f"params.yaml: evaluate.margin: {metric.name} declares no margin. Give one, the least difference that "
            f"matters, here or as the function's attribute margin."
        )
    if metric.in_points and margin >= 1:
        raise UserError(
            f"params.yaml: evaluate.margin: given {margin:g}; {metric.label} is a share of 1, so it must be below 1 "
            "(0.01: one point)."
        )
    return replace(metric, margin=float(margin))


def metric_hash(name: str) -> str:
    """Twelve hex digits of the file of a user's function; nothing of a metric that is known by name.

    Raises:
        UserError: there is no such file.
    """
    if name in METRICS:
        return ""
    from pipeline.regularizers.plugin import plugin_source_hash  # as above

    try:
        return plugin_source_hash(name)[:12]
    except ValueError as error:
        raise UserError(f"params.yaml: evaluate.metric: {str(error).removeprefix('plugin: ')}") from error
