"""The first objective in words: its name in sentences, its unit, and the difference that matters."""

from pipeline.config import Params
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords, accuracy_words
from pipeline.tune.objectives.objectives import metric_of, objectives_from_params


def objective_words(params: Params) -> MetricWords:
    """The words of the first objective; its margin is `evaluate.margin` where `evaluate.metric` is the same metric.

    Raises:
        UserError: as `pipeline.score.metrics.chosen_metric.chosen_metric`, of a user's function.
    """
    name = metric_of(objectives_from_params(params).first, params)
    if name == ACCURACY_WORDS.name:
        return accuracy_words(params)
    # They import scipy, for which commands that only read do not wait.
    from pipeline.score.metrics.chosen_metric import chosen_metric
    from pipeline.score.metrics.metric import METRICS

    return chosen_metric(params).words if name == params.evaluate.metric else METRICS[name].words
