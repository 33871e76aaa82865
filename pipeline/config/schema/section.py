"""Base class of every section of params.yaml, and the types of paths."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from pipeline.files.paths import expand_home


class Section(BaseModel):
    """A part of params.yaml. Unknown keys are rejected, no value is converted, and loaded values are immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _table(value: str) -> str:
    return expand_home(value) if value.lower().endswith((".csv", ".json")) else value


PathText = Annotated[str, AfterValidator(expand_home)]
"""A path, or text that may be one. A leading `~` is the home folder, as in a shell."""

TableText = Annotated[str, AfterValidator(_table)]
"""Path of a table if it ends in .csv or .json; any other text is a regular expression."""
