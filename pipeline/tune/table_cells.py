"""Values in the cells of a table: written so that no two look the same, read from what spreadsheets make of them.

A choice is written as Python shows it, null as an empty cell; where two choices of a parameter would look the same so
(null and an empty text, 1 and the text 1), all of them as JSON.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.yaml import parse_yaml
from pipeline.errors import UserError
from pipeline.tune.dimension import Dimension

Row = Mapping[str, Any]
"""A row of a table, by its columns."""


def format_cell(value: Any, dimension: Dimension | None = None) -> Any:
    """A value as a cell has it. dimension: of the space, where the value is one of it."""
    choices = [] if dimension is None else dimension.get("choices", [])
    if any(_same(value, choice) for choice in choices) and len(set(map(_plain, choices))) < len(choices):
        return json.dumps(value, sort_keys=True)
    return _plain(value) if value is None or isinstance(value, float) else value


def parse_cell(text: str, dimension: Dimension) -> Any:
    """The inverse of `format_cell`, for a dimension's cell; the text itself where it is no value of its kind."""
    if "choices" in dimension:
        return _choice(text, dimension)
    try:
        value = parse_yaml(text, "")
    except UserError:
        return text
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text
    if dimension["type"] == "float":
        return float(value)
    # A column of whole numbers with a gap in it comes back from spreadsheets and pandas as 8.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _same(value: Any, choice: Any) -> bool:
    return type(value) is type(choice) and bool(value == choice)


def _choice(text: str, dimension: Dimension) -> Any:
    choices: Sequence[Any] = dimension["choices"]
    for choice in choices:
        if str(format_cell(choice, dimension)) == text:
            return choice
    # Spreadsheets write truth values in capitals.
    truths = [choice for choice in choices if isinstance(choice, bool) and str(choice).lower() == text.strip().lower()]
    return truths[0] if truths else text
