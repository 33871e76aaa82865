"""What an evaluation says of its probe, the baseline that needs no training, in words."""

from collections.abc import Mapping
from typing import Any

from pipeline.score.metrics.wording import words_from

BEST, CONTROL = "best_minus_probe", "control_minus_probe"
"""The comparisons with an arm, as evaluation.json calls them."""

ARMS = {BEST: "best configuration", CONTROL: "control"}


def describe_probe(evaluation: Mapping[str, Any], against: str = BEST) -> str | None:
    """What an evaluation.json says of its probe, in sentences; None if there was none.

    against: the comparison with an arm that is told, `BEST` or `CONTROL`.
    """
    if not (probe := evaluation.get("probe")):
        return None
    words, beside = words_from(evaluation.get("metric")), probe[against]
    said = (
        f"The probe is a logistic regression (C = {probe['C']:g}, chosen on validation images) on frozen features of "
        f"{probe['weights']}: no network was trained, so there are no seeds, and the verdict is not of it. The "
        f"{ARMS[against]}'s seeds minus the probe: {words.format_difference(beside['difference'])} of {words.label}, "
        "in the mean"
    )
    if beside["low"] is not None:
        level, span = f"{100 * beside['confidence']:.4g} %", words.format_interval(beside["low"], beside["high"])
        said += f" ({level} {span}, of the images alone: other seeds would make other networks)"
    unfinished = "" if probe["converged"] else " Its fit had not converged."
    return f"{said}.{unfinished}"
