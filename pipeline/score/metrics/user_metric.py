"""A metric of the user's own: `evaluate.metric: my_package.my_module:my_metric`.

The function takes the probabilities (N, C) and the labels (N,) of a set of images, as numpy arrays, and
returns a number. These are its attributes, with their defaults:

    def recall_of_seven(probabilities, labels):
        return (probabilities.argmax(axis=1)[labels == 7] == 7).mean()

    recall_of_seven.margin = 0.02             # the least difference that matters; without it, set evaluate.margin
    recall_of_seven.name = "recall of seven"  # in sentences; default: the function's own name
    recall_of_seven.lower_is_better = False
    recall_of_seven.in_points = False         # True: a share of 1, whose differences are shown in points
    recall_of_seven.smooth = True             # False: no interval is computed, as for a median

The module is searched for as a plug-in's is, and its file is part of the code hash.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema.result_sections import SHARE_MARGIN_LIMIT
from pipeline.errors import UserError, format_value
from pipeline.regularizers.plugin import FAILURES, describe_failure, import_attribute
from pipeline.score.metrics.jackknife import Floats, grouped_pseudo_values
from pipeline.score.metrics.metric import METRICS, USER_KEY, Metric

NEEDED = f"needed: one of {', '.join(METRICS)}, or my_package.my_module:my_metric, a function of yours"


@dataclass(frozen=True)
class _Checked:
    """A user's function that returns a finite number, or raises a `UserError`.

    The function gets copies of the arrays.

    Attributes:
        spec: `module:function`, for messages.
        function: The function.
    """

    spec: str
    function: Callable[[Floats, NDArray[np.int64]], Any]

    def __call__(self, shares: Floats, truth: NDArray[np.int64]) -> float:
        try:
            found = self.function(np.array(shares), np.array(truth))
        except FAILURES as error:  # a user's function may fail in any way
            raise UserError(f"{_said(self.spec)} fails on {_images(truth)}: {describe_failure(error)}") from error
        if isinstance(found, np.ndarray) and found.ndim == 0:
            found = found[()]
        if not isinstance(found, Real) or not math.isfinite(found):
            raise UserError(
                f"{_said(self.spec)} gives {format_value(found)} on {_images(truth)}; needed: a finite number"
            )
        return float(found)


def load_metric(spec: str) -> Metric:
    """Imports the module of a specification, and returns the metric of the function that it names.

    Args:
        spec: `module:function`.

    Raises:
        UserError: As `pipeline.regularizers.plugin.import_attribute`; or if the object cannot be called, or
            an attribute is of the wrong kind.
    """
    try:
        function = import_attribute(spec, needed=NEEDED, is_wanted=callable)
    except ValueError as error:
        raise UserError(f"params.yaml: evaluate.metric: {str(error).removeprefix('plugin: ')}") from error
    if not callable(function) or isinstance(function, type):
        what = f"the class {function.__name__}" if isinstance(function, type) else f"a {type(function).__name__}"
        raise UserError(f"{_said(spec)} is {what}; {NEEDED}")
    margin = _declared(spec, function, "margin", None)
    if margin is not None and not margin > 0:
        raise UserError(f"{_said(spec)} declares margin {format_value(margin)}; needed: a number above 0")
    in_points = _declared(spec, function, "in_points", False)
    if in_points and margin is not None and margin >= SHARE_MARGIN_LIMIT:
        raise UserError(
            f"{_said(spec)} declares in_points and margin {format_value(margin)}, which means {100 * margin:g} points; "
            f"needed: below {SHARE_MARGIN_LIMIT} (0.01: one point)"
        )
    label = _declared(spec, function, "name", spec.rpartition(":")[2].replace("_", " "))
    checked = _Checked(spec, function)
    smooth = _declared(spec, function, "smooth", True)
    return Metric(
        name=spec,
        key=USER_KEY,
        label=label,
        margin=margin,
        value=checked,
        pseudo_values=partial(grouped_pseudo_values, checked) if smooth else None,
        lower_is_better=_declared(spec, function, "lower_is_better", False),
        in_points=in_points,
        within_folds=True,  # since it may rank images
    )


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "margin": ("a number above 0", lambda value: isinstance(value, Real) and math.isfinite(value)),
    "name": (
        "a text of one line",
        lambda value: isinstance(value, str) and value.isprintable() and bool(value.strip()),
    ),
    "smooth": ("True or False", lambda value: isinstance(value, bool)),
    "lower_is_better": ("True or False", lambda value: isinstance(value, bool)),
    "in_points": ("True or False", lambda value: isinstance(value, bool)),
}


def _declared(spec: str, function: Any, name: str, default: Any) -> Any:
    """Returns an attribute of a user's function, or its default.

    Args:
        spec: `module:function`, for messages.
        function: The function.
        name: Name of the attribute, a key of `_KINDS`.
        default: Value if the function has no such attribute.

    Raises:
        UserError: If the attribute is of the wrong kind.
    """
    value = getattr(function, name, default)
    needed, is_one = _KINDS[name]
    if value is not default and (not is_one(value) or (name == "margin" and isinstance(value, bool))):
        raise UserError(f"{_said(spec)} declares {name} {format_value(value)}; needed: {needed}")
    return value


def _said(spec: str) -> str:
    return f"params.yaml: evaluate.metric: {spec}"


def _images(truth: NDArray[np.int64]) -> str:
    classes = len(np.unique(truth))
    return f"{len(truth):,} image{'s' * (len(truth) != 1)} of {classes} class{'es' * (classes != 1)}"
