"""The endpoints of an evaluation: what is tested, named beforehand, in which order, at which level; and the verdict.

With alpha = 1 - confidence, every p is two-sided and counts in the endpoint's own direction alone, so that an endpoint
is shown at a level exactly where its interval at 1 - level lies beyond its bound.

With masks, two endpoints are primary, by Holm's rule (Scandinavian Journal of Statistics 6, 1979, 65-70): the smaller p
is held against alpha / 2, and where it is shown the other one against alpha. Of accuracy they are

    A  accuracy_not_worse   the accuracy is not lower than the control's by `margin` or more: difference + margin > 0
    B  attention_auroc      the attention of the fixed head ranks the object's pixels higher than the control's (AUROC)
    C  accuracy_higher      difference > 0; only where A and B are shown, at alpha

Without masks A, then log_loss (lower than the control's), then accuracy_higher are tested in this order, each at alpha,
and the first that is not shown ends it. Of another metric (`evaluate.metric`) A, C and the loss have its name, as
macro_f1_not_worse, and its direction: log_loss_not_worse, log_loss_lower, log_loss_higher. Where the metric is log loss
itself, C follows A. Both are sequentially rejective graphs (Bretz, Maurer, Brannath and Posch,
Statistics in Medicine 28, 2009, 586-604): that anything shown is false has a chance of at most alpha.

A loss of accuracy, `accuracy_lower`, is said wherever its interval at the confidence lies below 0. It stands outside of
the order, because silence about harm is not what an order may buy. It and `accuracy_higher` exclude each other, and
each has half of alpha in its own direction; the simulations of docs/benchmarks/verdicts.md count all of it together.
"""

from dataclasses import dataclass, replace

from pipeline.score.comparison import Comparison, at_confidence, directed_p
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords

NOT_WORSE, HIGHER, LOWER = "accuracy_not_worse", "accuracy_higher", "accuracy_lower"
"""Those of accuracy; `endpoint_names` has those of any metric."""
ATTENTION, LOG_LOSS = "attention_auroc", "log_loss"


@dataclass(frozen=True)
class Endpoint:
    """What came of one endpoint.

    difference: best minus control, accuracies and AUROCs as fractions of 1, log loss in nats. low, high: the interval
    that decided it, at `level`, such as 0.975; None where there is none. detectable: the smallest true difference from
    the endpoint's bound that would have been shown four times out of five. p: two-sided, in the endpoint's direction,
    not corrected. tested: False where an endpoint before it was not shown. shown: it was tested, and holds.
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
    """That a metric is not worse, that it is better, that it is worse."""
    return f"{metric.key}_not_worse", f"{metric.key}_{metric.better}", f"{metric.key}_{metric.worse}"


def decide_endpoints(
    metric: Comparison,
    *,
    margin: float,
    attention: Comparison | None = None,
    log_loss: Comparison | None = None,
    words: MetricWords = ACCURACY_WORDS,
) -> list[Endpoint]:
    """Test the endpoints at the confidence of `metric`, in the order in which they were named.

    metric: the comparison by `evaluate.metric`, of accuracy where `words` says no other. attention: of the AUROC of the
    fixed head, None for a set without masks. log_loss: best minus control, in nats, of a set without masks.

    Raises:
        ValueError: a margin that is not above 0, or neither attention nor log loss, where that is not the metric.
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
    """The levels that two p-values are held against. None, which cannot be shown, comes last."""
    first, second = (1.0 if p is None else p for p in (one, other))
    smaller_first = first <= second
    rest = alpha if min(first, second) < alpha / 2 else alpha / 2
    return (alpha / 2, rest) if smaller_first else (rest, alpha / 2)


def _negated(comparison: Comparison) -> Comparison:
    return replace(comparison, difference=-comparison.difference)


def _endpoint(name: str, found: Comparison, p: float | None, alpha: float, *, tested: bool = True) -> Endpoint:
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
