"""Describes parameters for the terminal: default, allowed values, purpose."""

import textwrap

from pipeline.config import parameters
from pipeline.config.messages import allowed_values
from pipeline.errors import UserError


def describe_parameters(prefix: str) -> str:
    """Returns default, allowed values and purpose of parameters, in lines.

    Args:
        prefix: the beginning of the parameters' paths.

    Raises:
        UserError: no path begins with it.
    """
    found = {path: field for path, field in parameters().items() if path.startswith(prefix)}
    if not found:
        sections = ", ".join(dict.fromkeys(path.partition(".")[0] for path in parameters()))
        raise UserError(f"no parameter begins with {prefix!r}; the sections are {sections}")
    lines = []
    for path, field in found.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "null" if default is None else default
        lines.append(f"{path} = {shown}    ({allowed_values(field)})")
        lines += textwrap.wrap(field.description or "", 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
