"""The verdict: the endpoints of an evaluation in sentences.

Every sentence has the interval that decided it, with its level. An effect that is not shown is never called
absent. The sentence then gives the difference that would be found with probability 0.8.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.console.format import format_level
from pipeline.score.comparison import PAIRED, Comparison, at_confidence, clip_to_possible, has_too_few_seeds
from pipeline.score.endpoints import ATTENTION, LOG_LOSS, Endpoint, endpoint_names
from pipeline.score.metrics.wording import ACCURACY_WORDS, ATTENTION_WORDS, MetricWords

FOUR_OF_FIVE = "would be found four times out of five"


def write_verdict(
    endpoints: Sequence[Endpoint],
    metric: Comparison,
    *,
    margin: float,
    attention: Comparison | None = None,
    centred: float | None = None,
    log_loss: Comparison | None = None,
    what: str = "the best configuration",
    against: str = "",
    words: MetricWords = ACCURACY_WORDS,
) -> list[str]:
    """Writes what the endpoints show, a sentence each, and last what was compared.

    Args:
        endpoints: Result of `decide_endpoints`, from the same comparisons, margin and words.
        metric: Comparison by `evaluate.metric`.
        margin: Largest loss that counts as not worse.
        attention: Comparison by AUROC of attention; None without masks.
        centred: AUROC of a Gaussian in the centre, which does not depend on the image; None without.
        log_loss: Comparison by log loss; None where it is not an endpoint.
        what: The method, in words.
        against: The control, in words; empty if nothing is known of it.
        words: Name, unit and direction of the metric.
    """
    by_name = {endpoint.name: endpoint for endpoint in possible_endpoints(endpoints, metric, attention, words)}
    sentences = _metric_sentences(by_name, metric, margin, words)
    if attention is not None:
        sentences.append(_attention_sentence(by_name[ATTENTION], attention, centred))
    elif log_loss is not None:
        sentences.append(_log_loss_sentence(by_name[LOG_LOSS], log_loss, words))
    control = f"its control ({against})" if against else "its control"
    return [*sentences, f"{what[0].upper()}{what[1:]} is compared with {control}: {_describe_basis(metric)}."]


def possible_endpoints(
    endpoints: Sequence[Endpoint], metric: Comparison, attention: Comparison | None, words: MetricWords
) -> list[Endpoint]:
    """Returns the endpoints, those of shares with their intervals as `clip_to_possible` leaves them.

    Args:
        endpoints: The endpoints.
        metric: Comparison of the arms by the metric.
        attention: Comparison by the AUROC of attention; None without masks.
        words: The metric in words.
    """
    shares = dict.fromkeys(endpoint_names(words), metric) if words.is_share else {}
    if attention is not None:
        shares[ATTENTION] = attention
    return [_possible(each, shares[each.name]) if each.name in shares else each for each in endpoints]


def _possible(endpoint: Endpoint, found: Comparison) -> Endpoint:
    """Returns an endpoint of a share with its interval as `clip_to_possible` leaves it.

    Args:
        endpoint: The endpoint.
        found: Its comparison, at any confidence.
    """
    clipped = clip_to_possible(at_confidence(found, endpoint.level))
    if not has_too_few_seeds(clipped):
        return endpoint
    return replace(endpoint, low=clipped.low, high=clipped.high, detectable=None)


def _metric_sentences(
    by_name: Mapping[str, Endpoint], metric: Comparison, margin: float, words: MetricWords
) -> list[str]:
    """Returns the sentences about the metric.

    Args:
        by_name: Endpoints by name.
        metric: Comparison by the metric.
        margin: Largest loss that counts as not worse.
        words: Name, unit and direction of the metric.
    """
    not_worse, better, worse = (by_name[name] for name in endpoint_names(words))
    if not_worse.low is None or not_worse.high is None:
        return [f"{words.title}: {words.format_difference(metric.difference)}; {metric.note}, and nothing is shown."]
    if better.shown:
        return [f"{words.title}: {words.better} by {_describe_size(better, words)}."]
    allowed, digits = words.format_margin(margin), words.fine_digits(not_worse.low, not_worse.high)
    found = f"{words.format_difference(metric.difference, digits, unit=False)}, {_level(not_worse)} "
    found += _span(not_worse, words)
    harm = f"{words.worse} by {_describe_size(worse, words)}"
    if not_worse.shown:
        said = [f"{words.title}: no {words.harm} of more than {allowed} ({found})."]
        return [*said, f"Yet {words.label} is {harm}."] if worse.shown else said
    if worse.shown:
        return [f"{words.title}: {harm}."]
    lost = f"it rises by more than {allowed}" if words.lower_is_better else f"more than {allowed} is lost"
    undecided = f"{words.title}: not enough data to tell whether {lost} ({found})"
    if not_worse.detectable is None:
        return [f"{undecided}.", words.ask_for_seeds(metric.seeds)]
    least = words.format_difference(not_worse.detectable).lstrip("+")
    return [f"{undecided}, where a difference of {least} {FOUR_OF_FIVE}."]


def _attention_sentence(endpoint: Endpoint, attention: Comparison, centred: float | None) -> str:
    """Returns the sentence about attention.

    Args:
        endpoint: Endpoint of attention.
        attention: Comparison by AUROC.
        centred: AUROC of a Gaussian in the centre; None without.
    """
    best, control = attention.best_mean, attention.control_mean
    fine = _digits_that_add_up(best, control, 2)
    means = f"AUROC {_share(best, fine)} against {_share(control, fine)}"
    beside = "" if centred is None else f"; a Gaussian in the centre: {_share(centred)}"
    change = _share(endpoint.difference, fine, signed=True)
    if endpoint.low is None or endpoint.high is None:
        return f"Attention: {means} ({change}, without an interval{beside}), and nothing is shown."
    digits = 2 if min(abs(endpoint.low), abs(endpoint.high)) >= 0.005 else 3
    low, high = (_share(end, digits, signed=True) for end in (endpoint.low, endpoint.high))
    found = f"{means} ({change}, {_level(endpoint)} {low} to {high}{beside})"
    if endpoint.shown:
        blind = centred is not None and attention.best_mean <= centred
        yet = ", but not yet as well as a Gaussian in the centre" if blind else ""
        return f"Attention finds the object better{yet}: {found}."
    if endpoint.high < 0:
        return f"Attention does not find the object better: {found}."
    said = f"Attention is not shown to find the object better: {found}"
    if endpoint.detectable is None:
        return f"{said}. {ATTENTION_WORDS.ask_for_seeds(attention.seeds)}"
    return f"{said}, where a difference of {_share(endpoint.detectable)} {FOUR_OF_FIVE}."


def _log_loss_sentence(endpoint: Endpoint, log_loss: Comparison, words: MetricWords) -> str:
    """Returns the sentence about log loss as an endpoint beside the metric.

    Args:
        endpoint: Endpoint of log loss.
        log_loss: Comparison by log loss.
        words: Name of the metric, which is tested first.
    """
    best, control = log_loss.best_mean, log_loss.control_mean
    fine = _digits_that_add_up(best, control, 3)
    means = f"{best:.{fine}f} against {control:.{fine}f}"
    if endpoint.low is None or endpoint.high is None:
        return f"Log loss: {means}, without an interval."
    change = f"{endpoint.difference + 0.0:+.{fine}f}"
    found = f"{means} ({change}, {_level(endpoint)} {endpoint.low:+.3f} to {endpoint.high:+.3f})"
    if not endpoint.tested:
        return f"Log loss is not tested, since a {words.harm} of {words.label} is not ruled out: {found}."
    if endpoint.shown:
        return f"Log loss is lower: {found}."
    if endpoint.low > 0:
        return f"Log loss is not lower: {found}."
    return (
        f"Log loss is not shown to be lower: {found}, where a difference of {endpoint.detectable:.3f} {FOUR_OF_FIVE}."
    )


def _digits_that_add_up(best: float, control: float, least: int) -> int:
    """Returns the fewest decimals, up to two more than `least`, with which the difference is that of the rounded means.

    Args:
        best: Mean of the best arm.
        control: Mean of the control.
        least: Fewest decimals.
    """
    for digits in range(least, least + 3):
        if math.isclose(round(best, digits) - round(control, digits), round(best - control, digits), abs_tol=1e-9):
            return digits
    return least


def _describe_basis(metric: Comparison) -> str:
    """Returns what was compared: seeds and images, and folds if there are any."""
    best, control = metric.seeds
    seeds = f"{best} seed{'s' * (best != 1)} each" if best == control else f"{best} seeds against {control}"
    if metric.layout != PAIRED:
        seeds += ", which are not the same and are compared as independent,"
    if (folds := metric.folds) > 1:
        return (
            f"{folds} searches with retraining, each on {folds - 1}/{folds} of these {metric.images:,} images, "
            f"{seeds}, tested on the images left out. So these figures rate the procedure of searching and training, "
            "and no single configuration or network"
        )
    return f"{seeds} on {metric.images:,} test images"


def _describe_size(endpoint: Endpoint, words: MetricWords) -> str:
    size = words.format_difference(abs(endpoint.difference), words.fine_digits(endpoint.low, endpoint.high))
    return f"{size.lstrip('+')} ({_level(endpoint)} {_span(endpoint, words)})"


def _span(endpoint: Endpoint, words: MetricWords) -> str:
    digits = words.fine_digits(endpoint.low, endpoint.high)
    low, high = (words.format_difference(end or 0.0, digits, unit=False) for end in (endpoint.low, endpoint.high))
    return f"{low} to {high}"


def _level(endpoint: Endpoint) -> str:
    return f"{format_level(endpoint.level)} interval"


def _share(value: float, digits: int = 2, *, signed: bool = False) -> str:
    """Formats a fraction of 1 without the 0 before its point, such as `.90` or `+.28`.

    Args:
        value: The fraction.
        digits: Decimals.
        signed: Whether a value that is not negative gets a +.
    """
    text = f"{abs(value):.{digits}f}".removeprefix("0")
    rounded = round(value, digits)
    return ("-" if rounded < 0 else "+" if signed else "") + text
