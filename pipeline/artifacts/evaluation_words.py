"""What an evaluation says in words of what stands beside the arms' networks: ensembles of them, and the probe."""

from pipeline.artifacts.evaluation import Ensembles, Evaluation
from pipeline.console.format import format_interval, format_level, format_points

BEST, CONTROL = "best_minus_probe", "control_minus_probe"
"""The comparisons with an arm, as evaluation.json calls them."""

ARMS = {BEST: "best configuration", CONTROL: "control"}


def describe_probe(evaluation: Evaluation, against: str = BEST) -> str | None:
    """What an evaluation says of its probe, in sentences; None if there was none.

    against: the comparison with an arm that is told, `BEST` or `CONTROL`.
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
    """What both ensembles differ by, in two sentences."""
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
        "single networks."
    )
