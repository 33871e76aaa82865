"""What every section of params.yaml has in common."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from pipeline.files.paths import expand_home


class Section(BaseModel):
    """A part of params.yaml. Unknown keys are refused, nothing is converted, nothing can be changed after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _table(value: str) -> str:
    return expand_home(value) if value.lower().endswith((".csv", ".json")) else value


PathText = Annotated[str, AfterValidator(expand_home)]
"""A path, or what may be one: a leading `~` is the home folder, as in a shell."""

TableText = Annotated[str, AfterValidator(_table)]
"""A table's path, by its ending; anything else is a regular expression."""
