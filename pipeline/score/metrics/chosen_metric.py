"""The metric of the parameters, with its margin."""

from dataclasses import replace

from pipeline.config import Params
from pipeline.config.messages import share_margin_words
from pipeline.config.schema.result_sections import SHARE_MARGIN_LIMIT
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
        UserError: As `find_metric`; or if a user's function has no margin, or is a share and evaluate.margin or
            promote.margin is too wide for one.
    """
    metric, margin = find_metric(params.evaluate.metric), params.evaluate.margin
    margin = metric.margin if margin is None else margin
    if margin is None:
        raise UserError(
            f"params.yaml: evaluate.margin: {metric.name} declares no margin. Give one, the least difference that "
            f"matters, here or as the function's attribute margin."
        )
    # For a metric that has a name, the parameters have been checked when they were read.
    given = {"evaluate.margin": params.evaluate.margin, "promote.margin": params.promote.margin}
    for path, each in given.items():
        if metric.in_points and each is not None and each >= SHARE_MARGIN_LIMIT:
            raise UserError(f"params.yaml: {share_margin_words(path, each, metric.label)}")
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
