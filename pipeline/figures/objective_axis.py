"""Axis of an objective in figures: its words, its unit, and whether more or less is better."""

from dataclasses import dataclass

_WORDS = {
    "val/accuracy": "validation accuracy",
    "val/loss": "validation loss",
    "val/balanced_accuracy": "validation balanced accuracy",
    "val/macro_f1": "validation macro-F1",
    "val/auroc": "validation AUROC",
    "val/metric": "validation, your metric",
    "val/attention/jaccard": "attention against masks, Jaccard",
    "val/attention/auroc": "attention against masks, AUROC",
    "parameters": "parameters",
    "latency_ms": "latency of one image",
    "images_per_s": "images a second",
}
_UNITS = {
    **dict.fromkeys(("val/accuracy", "val/balanced_accuracy", "val/macro_f1"), ("%", 100.0)),
    "parameters": ("millions", 1e-6),
    "latency_ms": ("ms", 1.0),
}
_MINIMIZED = ("val/loss", "parameters", "latency_ms")


@dataclass(frozen=True)
class ObjectiveAxis:
    """Axis of an objective.

    Attributes:
        words: the objective in words, without a unit.
        unit: unit of the axis; empty without one.
        scale: factor from the objective's values to the unit.
        minimize: whether less is better.
    """

    words: str
    unit: str = ""
    scale: float = 1.0
    minimize: bool = False

    @property
    def label(self) -> str:
        """Label of the axis."""
        return f"{self.words} ({self.unit})" if self.unit else self.words

    @property
    def title(self) -> str:
        """The words, as at the beginning of a sentence."""
        return self.words[0].upper() + self.words[1:]

    def gain(self, value: float) -> float:
        """Returns a value with the sign for which more is better."""
        return -value if self.minimize else value


def objective_axis(name: str) -> ObjectiveAxis:
    """Returns the axis of an objective.

    Args:
        name: the objective, as in `search.objectives`.
    """
    unit, scale = _UNITS.get(name, ("", 1.0))
    return ObjectiveAxis(_WORDS.get(name, name), unit, scale, name in _MINIMIZED)


ACCURACY_AXIS = objective_axis("val/accuracy")
