"""The metric of the parameters, with its margin."""

from dataclasses import replace

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.score.metrics.metric import METRICS, Metric


def find_metric(name: str) -> Metric:
    """Returns a metric by its name, or from a user's function by its specification.

    Args:
        name: A key of `METRICS`, or `module:function`.

    Raises:
        UserError: As `load_metric`.
    """
    if name in METRICS:
        return METRICS[name]
    # Imported here, since it imports torch, and commands that only read results need no torch.
    from pipeline.score.metrics.user_metric import load_metric

    return load_metric(name)


def chosen_metric(params: Params) -> Metric:
    """Returns the metric of `evaluate.metric`, with `evaluate.margin` or, if that is null, its own margin.

    Args:
        params: All parameters.

    Raises:
        UserError: As `find_metric`; or if a user's function has no margin, or the margin of a share is 1 or
            more.
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
    """Returns twelve hex digits of the SHA-256 of a user's file; "" for a metric known by name.

    Args:
        name: A key of `METRICS`, or `module:function`.

    Raises:
        UserError: If there is no such file.
    """
    if name in METRICS:
        return ""
    from pipeline.regularizers.plugin import plugin_source_hash  # imports torch, as above

    try:
        return plugin_source_hash(name)[:12]
    except ValueError as error:
        raise UserError(f"params.yaml: evaluate.metric: {str(error).removeprefix('plugin: ')}") from error
