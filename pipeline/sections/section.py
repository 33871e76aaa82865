"""What every section of params.yaml has in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from pipeline.paths import expand_home


class Section(BaseModel):
    """A part of params.yaml. Unknown keys are refused, nothing is converted, nothing can be changed after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def paths(*names: str, ending: tuple[str, ...] = ("",)) -> Any:
    """Of a section: these parameters are paths, or may be; a leading `~` is the home folder, as in a shell.

    ending: by which those are known that are paths.
    """

    def expanded(value: str | None) -> str | None:
        return expand_home(value) if value is not None and value.lower().endswith(ending) else value

    return field_validator(*names)(expanded)
