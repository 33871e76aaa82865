"""Values in the cells of a table: no two values are written alike, and values changed by spreadsheets are understood.

A choice is written as Python prints it, and null as an empty cell. If two choices of a parameter would look
alike that way (null and an empty text, 1 and the text 1), all of its choices are written as JSON.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.yaml import parse_yaml
from pipeline.errors import UserError
from pipeline.tune.dimension import Dimension

Row = Mapping[str, Any]
"""Row of a table, by column."""


def format_cell(value: Any, dimension: Dimension | None = None) -> Any:
    """Returns a value as it is written in a cell.

    Args:
        value: The value.
        dimension: Dimension of the space that the value belongs to; None if it belongs to none.
    """
    choices = [] if dimension is None else dimension.get("choices", [])
    if any(_same(value, choice) for choice in choices) and len(set(map(_plain, choices))) < len(choices):
        return json.dumps(value, sort_keys=True)
    return _plain(value) if value is None or isinstance(value, float) else value


def parse_cell(text: str, dimension: Dimension) -> Any:
    """Returns the inverse of `format_cell` for a dimension's cell; the text itself if it is no value of the
    dimension's type.
    """
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
    # Spreadsheets and pandas write a column of whole numbers with an empty cell as decimals, such as 8.0.
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
