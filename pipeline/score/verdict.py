"""The verdict: the endpoints of an evaluation in sentences that a person can repeat.

Every sentence has the interval that decided it, with its level. What is not shown is never called absent: "not enough
data" stands with the difference that would have been found four times out of five.
"""

from collections.abc import Mapping, Sequence

from pipeline.console.format import format_points
from pipeline.score.comparison import PAIRED, Comparison
from pipeline.score.endpoints import ATTENTION, HIGHER, LOG_LOSS, LOWER, NOT_WORSE, Endpoint

FOUR_OF_FIVE = "would be found four times out of five"


def write_verdict(
    endpoints: Sequence[Endpoint],
    accuracy: Comparison,
    *,
    margin: float,
    attention: Comparison | None = None,
    centred: float | None = None,
    log_loss: Comparison | None = None,
    what: str = "the best configuration",
    against: str = "its control",
) -> list[str]:
    """Say what the endpoints show, a sentence each, and last what was compared.

    endpoints: of `decide_endpoints`, from the same comparisons and margin. centred: AUROC of a Gaussian in the centre,
    which looks at no image. what, against: the method and the control, in words.
    """
    by_name = {endpoint.name: endpoint for endpoint in endpoints}
    sentences = _accuracy_sentences(by_name, accuracy, margin)
    if attention is not None:
        sentences.append(_attention_sentence(by_name[ATTENTION], attention, centred))
    elif log_loss is not None:
        sentences.append(_log_loss_sentence(by_name[LOG_LOSS], log_loss))
    return [*sentences, f"{what[0].upper()}{what[1:]} against {against}: {_describe_basis(accuracy)}."]


def _accuracy_sentences(by_name: Mapping[str, Endpoint], accuracy: Comparison, margin: float) -> list[str]:
    not_worse, higher, lower = by_name[NOT_WORSE], by_name[HIGHER], by_name[LOWER]
    if not_worse.low is None or not_worse.high is None:
        return [f"Accuracy: {format_points(accuracy.difference)}; {accuracy.note}, and nothing is shown."]
    if higher.shown:
        return [f"Accuracy: higher by {_size(higher)} ({_level(higher)} {_span_points(higher)})."]
    allowed = f"{100 * margin:.4g} point{'s' * (f'{100 * margin:.4g}' != '1')}"
    found = f"{format_points(accuracy.difference, _digits(not_worse), unit=False)}, {_level(not_worse)} "
    found += _span_points(not_worse)
    loss = f"lower by {_size(lower)} ({_level(lower)} {_span_points(lower)})"
    if not_worse.shown:
        said = [f"Accuracy: no loss of more than {allowed} ({found})."]
        return [*said, f"Yet accuracy is {loss}."] if lower.shown else said
    if lower.shown:
        return [f"Accuracy: {loss}."]
    least = format_points(not_worse.detectable or 0.0).lstrip("+")
    return [
        f"Accuracy: not enough data to tell whether more than {allowed} is lost ({found}), where a difference of "
        f"{least} {FOUR_OF_FIVE}."
    ]


def _attention_sentence(endpoint: Endpoint, attention: Comparison, centred: float | None) -> str:
    means = f"AUROC {_share(attention.best_mean)} against {_share(attention.control_mean)}"
    beside = "" if centred is None else f"; a Gaussian in the centre: {_share(centred)}"
    change = _share(endpoint.difference, signed=True)
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
    least = _share(endpoint.detectable or 0.0)
    return f"Attention is not shown to find the object better: {found}, where a difference of {least} {FOUR_OF_FIVE}."


def _log_loss_sentence(endpoint: Endpoint, log_loss: Comparison) -> str:
    means = f"{log_loss.best_mean:.3f} against {log_loss.control_mean:.3f}"
    if endpoint.low is None or endpoint.high is None:
        return f"Log loss: {means}, without an interval."
    found = (
        f"{means} ({endpoint.difference + 0.0:+.3f}, {_level(endpoint)} {endpoint.low:+.3f} to {endpoint.high:+.3f})"
    )
    if not endpoint.tested:
        return f"Log loss is not tested, since a loss of accuracy is not ruled out: {found}."
    if endpoint.shown:
        return f"Log loss is lower: {found}."
    if endpoint.low > 0:
        return f"Log loss is not lower: {found}."
    return (
        f"Log loss is not shown to be lower: {found}, where a difference of {endpoint.detectable:.3f} {FOUR_OF_FIVE}."
    )


def _describe_basis(accuracy: Comparison) -> str:
    best, control = accuracy.seeds
    seeds = f"{best} seed{'s' * (best != 1)} each" if best == control else f"{best} seeds against {control}"
    if accuracy.layout != PAIRED:
        seeds += ", which are not the same and are compared as independent,"
    if (folds := accuracy.folds) > 1:
        return (
            f"searching and training on {folds - 1}/{folds} of these {accuracy.images:,} images, {folds} times over, "
            f"{seeds} on the images left out. This is of the procedure, by these {folds} searches, and not of one "
            "configuration or network"
        )
    return f"{seeds} on {accuracy.images:,} test images"


def _digits(endpoint: Endpoint) -> int:
    # An end of the interval that rounds to 0 would hide which side of 0 it lies on.
    return 1 if min(abs(endpoint.low or 0.0), abs(endpoint.high or 0.0)) >= 0.0005 else 2


def _size(endpoint: Endpoint) -> str:
    return format_points(abs(endpoint.difference), _digits(endpoint)).lstrip("+")


def _span_points(endpoint: Endpoint) -> str:
    digits = _digits(endpoint)
    low, high = (format_points(end or 0.0, digits, unit=False) for end in (endpoint.low, endpoint.high))
    return f"{low} to {high}"


def _level(endpoint: Endpoint) -> str:
    return f"{100 * endpoint.level:.4g} % interval"


def _share(value: float, digits: int = 2, *, signed: bool = False) -> str:
    """A share of 1 without the 0 before its point: `.90`, `+.28`."""
    text = f"{abs(value):.{digits}f}".removeprefix("0")
    rounded = round(value, digits)
    return ("-" if rounded < 0 else "+" if signed else "") + text
