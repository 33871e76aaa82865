"""Endpoints of an evaluation: the hypotheses tested, fixed in advance, with their order and levels.

With alpha = 1 - confidence, every p-value is two-sided and counts in the endpoint's own direction alone. So
an endpoint is shown at a level exactly if its interval at 1 - level lies beyond its bound.

With masks, two endpoints are primary, by Holm's rule (Scandinavian Journal of Statistics 6, 1979, 65-70). The
smaller p-value is compared with alpha / 2. If that endpoint is shown, the other one is compared with alpha.
For accuracy the endpoints are

    A  accuracy_not_worse   the accuracy is not lower than the control's by `margin` or more: difference + margin > 0
    B  attention_auroc      the attention of the fixed head ranks the object's pixels higher than the control's (AUROC)
    C  accuracy_higher      difference > 0; only where A and B are shown, at alpha

Without masks, A, then log_loss (lower than the control's), then accuracy_higher are tested in this order,
each at alpha. The first that is not shown ends the sequence. For another metric (`evaluate.metric`), A, C and
the harm have its name and its direction, such as macro_f1_not_worse, or log_loss_not_worse, log_loss_lower
and log_loss_higher. If the metric is log loss itself, C follows A. Both are sequentially rejective graphs
(Bretz, Maurer, Brannath and Posch, Statistics in Medicine 28, 2009, 586-604): the probability that anything
shown is false is at most alpha.

A loss of accuracy, `accuracy_lower`, is reported whenever its interval at the confidence lies below 0. It is
outside of the order, because an order must not hide harm. It and `accuracy_higher` exclude each other, and
each has half of alpha in its own direction. The simulations of docs/benchmarks/verdicts.md count all of it
together.
"""

from dataclasses import dataclass, replace

from pipeline.score.comparison import Comparison, at_confidence, directed_p
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords

NOT_WORSE, HIGHER, LOWER = "accuracy_not_worse", "accuracy_higher", "accuracy_lower"
"""Names for accuracy; `endpoint_names` returns those of any metric."""
ATTENTION, LOG_LOSS = "attention_auroc", "log_loss"


@dataclass(frozen=True)
class Endpoint:
    """The result of one endpoint.

    Attributes:
        name: Name of the endpoint.
        tested: False if an endpoint before it in the order was not shown.
        shown: Whether it was tested and holds.
        difference: Best minus control: accuracies and AUROCs as fractions of 1, log loss in nats.
        low: Lower end of the deciding interval; None if there is none.
        high: Upper end of the deciding interval; None if there is none.
        level: Confidence of this interval, such as 0.975.
        p: Two-sided p-value in the endpoint's direction, not corrected; None if there is no interval.
        detectable: Smallest true difference from the endpoint's bound that is shown with probability 0.8;
            None if there is no interval.
    """

    name: str
    tested: bool
    shown: bool
    difference: float
    low: float | None
    high: float | None
    level: float
    p: float | None
    detectable: float | None


def endpoint_names(metric: MetricWords) -> tuple[str, str, str]:
    """Returns the names of a metric's endpoints: that it is not worse, better, and worse.

    Args:
        metric: The metric in words.
    """
    return f"{metric.key}_not_worse", f"{metric.key}_{metric.better}", f"{metric.key}_{metric.worse}"


def decide_endpoints(
    metric: Comparison,
    *,
    margin: float,
    attention: Comparison | None = None,
    log_loss: Comparison | None = None,
    words: MetricWords = ACCURACY_WORDS,
) -> list[Endpoint]:
    """Tests the endpoints at the confidence of `metric`, in their order.

    Args:
        metric: Comparison by `evaluate.metric`; by accuracy unless `words` names another metric.
        margin: Largest loss of the metric that counts as not worse, above 0.
        attention: Comparison by the AUROC of the fixed head's attention; None for a data set without masks.
        log_loss: Comparison by log loss in nats, for a data set without masks; None otherwise.
        words: Name, unit and direction of the metric.

    Returns:
        The endpoints in order; the last one is the harm.

    Raises:
        ValueError: If the margin is not above 0, or both `attention` and `log_loss` are None and log loss is
            not the metric.
    """
    if margin <= 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    alpha, (name, better, worse) = 1 - metric.confidence, endpoint_names(words)
    gain, harm = (_negated(metric), metric) if words.lower_is_better else (metric, _negated(metric))
    p = directed_p(gain, -margin)
    if attention is not None:
        p_attention = directed_p(attention, 0.0)
        of_metric, of_attention = _holm_levels(p, p_attention, alpha)
        first = [
            _endpoint(name, metric, p, of_metric),
            _endpoint(ATTENTION, attention, p_attention, of_attention),
        ]
    else:
        first = [_endpoint(name, metric, p, alpha)]
        if log_loss is not None:
            p_loss = directed_p(_negated(log_loss), 0.0)
            first.append(_endpoint(LOG_LOSS, log_loss, p_loss, alpha, tested=first[0].shown))
        elif words.key != LOG_LOSS:
            raise ValueError(f"either attention or log loss is an endpoint besides {words.label}")
    return [
        *first,
        _endpoint(better, metric, directed_p(gain, 0.0), alpha, tested=all(each.shown for each in first)),
        _endpoint(worse, metric, directed_p(harm, 0.0), alpha),
    ]


def _holm_levels(one: float | None, other: float | None, alpha: float) -> tuple[float, float]:
    """Returns the levels with which two p-values are compared. None, which cannot be shown, comes last.

    Args:
        one: A p-value, or None.
        other: Another p-value, or None.
        alpha: Level of both together.
    """
    first, second = (1.0 if p is None else p for p in (one, other))
    smaller_first = first <= second
    rest = alpha if min(first, second) < alpha / 2 else alpha / 2
    return (alpha / 2, rest) if smaller_first else (rest, alpha / 2)


def _negated(comparison: Comparison) -> Comparison:
    return replace(comparison, difference=-comparison.difference)


def _endpoint(name: str, found: Comparison, p: float | None, alpha: float, *, tested: bool = True) -> Endpoint:
    """Builds an endpoint from a comparison, its p-value and its level.

    Args:
        name: Name of the endpoint.
        found: The comparison.
        p: Two-sided p-value in the endpoint's direction; None without an interval.
        alpha: Level of the test.
        tested: Whether the order permits the test.
    """
    decided = at_confidence(found, 1 - alpha)
    return Endpoint(
        name=name,
        tested=tested,
        shown=tested and p is not None and p < alpha,
        difference=found.difference,
        low=decided.low,
        high=decided.high,
        level=1 - alpha,
        p=p,
        detectable=decided.detectable_difference,
    )
