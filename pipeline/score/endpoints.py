"""The endpoints of an evaluation: what is tested, named beforehand, in which order, at which level; and the verdict.

With alpha = 1 - confidence, every p is two-sided and counts in the endpoint's own direction alone, so that an endpoint
is shown at a level exactly where its interval at 1 - level lies beyond its bound.

With masks, two endpoints are primary, by Holm's rule (Scandinavian Journal of Statistics 6, 1979, 65-70): the smaller p
is held against alpha / 2, and where it is shown the other one against alpha.

    A  accuracy_not_worse   the accuracy is not lower than the control's by `margin` or more: difference + margin > 0
    B  attention_auroc      the attention of the fixed head ranks the object's pixels higher than the control's (AUROC)
    C  accuracy_higher      difference > 0; only where A and B are shown, at alpha

Without masks A, then log_loss (lower than the control's), then accuracy_higher are tested in this order, each at alpha,
and the first that is not shown ends it. Both are sequentially rejective graphs (Bretz, Maurer, Brannath and Posch,
Statistics in Medicine 28, 2009, 586-604): that anything shown is false has a chance of at most alpha.

A loss of accuracy, `accuracy_lower`, is said wherever its interval at the confidence lies below 0. It stands outside of
the order, because silence about harm is not what an order may buy. It and `accuracy_higher` exclude each other, and
each has half of alpha in its own direction; the simulations of docs/benchmarks/verdicts.md count all of it together.
"""

from dataclasses import dataclass, replace

from pipeline.score.comparison import Comparison, at_confidence, directed_p

NOT_WORSE, HIGHER, LOWER = "accuracy_not_worse", "accuracy_higher", "accuracy_lower"
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


def decide_endpoints(
    accuracy: Comparison,
    *,
    margin: float,
    attention: Comparison | None = None,
    log_loss: Comparison | None = None,
) -> list[Endpoint]:
    """Test the endpoints at the confidence of `accuracy`, in the order in which they were named.

    attention: of the AUROC of the fixed head, None for a set without masks. log_loss: best minus control, in nats, of a
    set without masks.

    Raises:
        ValueError: a margin that is not above 0, or neither attention nor log loss.
    """
    if margin <= 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    alpha = 1 - accuracy.confidence
    p = directed_p(accuracy, -margin)
    if attention is not None:
        p_attention = directed_p(attention, 0.0)
        of_accuracy, of_attention = _holm_levels(p, p_attention, alpha)
        not_worse = _endpoint(NOT_WORSE, accuracy, p, of_accuracy)
        second = _endpoint(ATTENTION, attention, p_attention, of_attention)
    elif log_loss is not None:
        not_worse = _endpoint(NOT_WORSE, accuracy, p, alpha)
        second = _endpoint(LOG_LOSS, log_loss, directed_p(_negated(log_loss), 0.0), alpha, tested=not_worse.shown)
    else:
        raise ValueError("either attention or log loss is an endpoint besides accuracy")
    return [
        not_worse,
        second,
        _endpoint(HIGHER, accuracy, directed_p(accuracy, 0.0), alpha, tested=not_worse.shown and second.shown),
        _endpoint(LOWER, accuracy, directed_p(_negated(accuracy), 0.0), alpha),
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
