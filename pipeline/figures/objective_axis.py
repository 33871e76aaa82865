"""How an objective of a search is drawn and written: its words, its unit, and which end of it is better."""

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
    """words: without a unit. unit, scale: values are multiplied by the scale to be in it; no unit where it is empty.

    minimize: whether less is better.
    """

    words: str
    unit: str = ""
    scale: float = 1.0
    minimize: bool = False

    @property
    def label(self) -> str:
        """Of an axis."""
        return f"{self.words} ({self.unit})" if self.unit else self.words

    @property
    def title(self) -> str:
        """The words at the beginning of a sentence."""
        return self.words[0].upper() + self.words[1:]

    def gain(self, value: float) -> float:
        """A value turned so that more is better."""
        return -value if self.minimize else value


def objective_axis(name: str) -> ObjectiveAxis:
    """The axis of an objective of `search.objectives`."""
    unit, scale = _UNITS.get(name, ("", 1.0))
    return ObjectiveAxis(_WORDS.get(name, name), unit, scale, name in _MINIMIZED)


ACCURACY_AXIS = objective_axis("val/accuracy")
