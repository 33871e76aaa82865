"""Sentences about the ensembles of an evaluation and about its probe."""

from pipeline.artifacts.evaluation import Ensembles, Evaluation
from pipeline.console.format import format_interval, format_level, format_points

BEST, CONTROL = "best_minus_probe", "control_minus_probe"
"""Keys in evaluation.json of the differences between an arm and the probe."""

ARMS = {BEST: "best configuration", CONTROL: "control"}


def describe_probe(evaluation: Evaluation, against: str = BEST) -> str | None:
    """Describes the probe of an evaluation, and its difference to one arm, in sentences.

    Args:
        evaluation: Evaluation that may have a probe.
        against: The difference to describe: `BEST` or `CONTROL`.

    Returns:
        The sentences; None if the evaluation has no probe.
    """
    if (probe := evaluation.probe) is None:
        return None
    words, beside = evaluation.words, probe.best_minus_probe if against == BEST else probe.control_minus_probe
    said = (
        f"The probe is a logistic regression (C = {probe.C:g}, chosen on validation images) on frozen features of "
        f"{probe.weights}: no network was trained, so there are no seeds, and the verdict is not of it. The "
        f"{ARMS[against]}'s seeds minus the probe: {words.format_difference(beside.difference)} of {words.label}, in "
        "the mean"
    )
    if beside.low is not None and beside.high is not None:
        level, span = format_level(beside.confidence), words.format_interval(beside.low, beside.high)
        said += f" ({level} {span}, of the images alone: other seeds would make other networks)"
    unfinished = "" if probe.converged else " Its fit had not converged."
    return f"{said}.{unfinished}"


def describe_ensembles(ensembles: Ensembles) -> str:
    """Returns two sentences on the ensembles of the best configuration's seeds and of the control's.

    The first one has their difference (best minus control), with the interval if there is one. The second one says
    that the verdict is of single networks, of which one is registered.

    Args:
        ensembles: Scores of both ensembles, and their difference.
    """
    words, interval = ensembles.metric, ""
    by = format_points(ensembles.difference)
    if words is not None:
        by = f"{words.format_difference(ensembles.difference)} in {words.label}"
    if ensembles.low is not None and ensembles.high is not None:
        span = (format_interval if words is None else words.format_interval)(ensembles.low, ensembles.high)
        level = format_level(ensembles.confidence)
        interval = f" ({level} {span}, of the images alone: other seeds would make two others)"
    return (
        f"These two ensembles (each the mean of its seeds' probabilities) differ by {by}{interval}. The verdict is of "
        "single networks, and so is the registered model."
    )
