"""Check that the metric by which the arms are compared has a value on the test images."""

import numpy as np

from pipeline.config import Params
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.sources.source_config import Preview
from pipeline.errors import UserError
from pipeline.inputs.data_split import compute_split
from pipeline.inputs.source import manifest_if_current
from pipeline.score.metrics.chosen_metric import chosen_metric, find_metric
from pipeline.score.metrics.label_check import check_labels, labels_at_once, try_metric
from pipeline.score.metrics.metric import USER_KEY, Metric
from pipeline.tune.objectives.objectives import USER_METRIC, objectives_from_params
from pipeline.workspace import Workspace

MADE_UP = 20
"""Images of each class on which a user's function is tried while no data are prepared."""


def check_metric(workspace: Workspace, params: Params, source: Preview) -> None:
    """Checks that the metric, and those of the objectives, have a value on the images on which they are computed.

    While no data are prepared, only a user's function is tried, on made-up images of every class. The search then
    checks the rest when it begins.

    Args:
        workspace: The checkout.
        params: All parameters.
        source: The image source.

    Raises:
        UserError: As in `chosen_metric` and `check_labels`.
    """
    metric, interval = chosen_metric(params), params.retrain.seed_bounds[1] > 1
    searched = {name: _searched(name, metric) for name in objectives_from_params(params).class_metrics}
    if manifest_if_current(workspace, params) is None:
        if metric.key == USER_KEY:
            labels = np.repeat(np.arange(len(source.classes)), MADE_UP)
            try_metric(metric, labels, len(source.classes), interval=False)
        return
    if not metric.by_class and metric.key != USER_KEY and not searched:
        return
    prepared = open_prepared(workspace.prepared)
    split = compute_split(workspace, params, prepared)
    for held in labels_at_once(metric, prepared.labels, split.tested):
        of_fold = metric.within_folds and bool(split.folds)
        check_labels(metric, held, prepared.classes, interval=interval, of_fold=of_fold)
    for name, each in searched.items():
        labels = np.asarray(prepared.labels[split.val])
        check_labels(each, labels, prepared.classes, interval=False, role="validation", parameter=f"search: {name}")


def _searched(name: str, metric: Metric) -> Metric:
    """Returns the metric of an objective.

    Args:
        name: Name of the objective.
        metric: Metric of evaluate.metric.

    Raises:
        UserError: The objective is a user's function with lower_is_better, which a search cannot minimise.
    """
    if name != USER_METRIC:
        return find_metric(name.removeprefix("val/"))
    if metric.lower_is_better:
        raise UserError(
            f"params.yaml: search: {USER_METRIC}: {metric.name} declares lower_is_better, and a search maximises "
            "it. Search for its negative, or leave it out of search.objectives and search.choose.then."
        )
    return metric
