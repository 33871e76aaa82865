"""Wording of the first objective: its name in sentences, its unit, and the difference that matters."""

from pipeline.config import Params
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords, accuracy_words
from pipeline.tune.objectives.objectives import metric_of, objectives_from_params


def objective_words(params: Params) -> MetricWords:
    """Returns the wording of the first objective.

    Its margin is `evaluate.margin` if `evaluate.metric` is the same metric.

    Args:
        params: All parameters.

    Raises:
        UserError: a user's function is invalid, as in `pipeline.score.metrics.chosen_metric.chosen_metric`.
    """
    name = metric_of(objectives_from_params(params).first, params)
    if name == ACCURACY_WORDS.name:
        return accuracy_words(params)
    # Imported here because they import scipy, for which commands that only read results should not wait.
    from pipeline.score.metrics.chosen_metric import chosen_metric
    from pipeline.score.metrics.metric import METRICS

    return chosen_metric(params).words if name == params.evaluate.metric else METRICS[name].words
