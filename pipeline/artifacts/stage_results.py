"""What the classes of this room share, and how results call arms and methods.

A class is a stage's file, or a part of one: frozen values that are read from it, and written to it.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config import Values
from pipeline.errors import UserError, single_item_command
from pipeline.files.atomic import write_whole

Number = int | float
"""A number that is written as it was read: neither type is converted to the other."""

BEST = "best"
"""Name of the arm that has the best configuration; the other arm has its control's name."""

NAMES = {
    "spatial_entropy": "SAR",
    "total_variation": "total variation",
    "head_disagreement": "head disagreement",
    "relative_localisation": "relative localisation",
    "guided_transfer": "guided transfer",
    "mask_supervision": "mask supervision",
    "locality_guidance": "locality guidance",
}
"""The methods as sentences call them."""

RUN_FILE = "mlflow_run"
"""File in a search's state folder that holds the id of its parent run."""


class Record(BaseModel):
    """A part of a stage's file. Its keys are its fields, in their order; fields that were not given are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    def content(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return self.model_dump(exclude_unset=True, warnings=False)


class Artifact(Record):
    """A JSON file that a stage leaves in its folder of results/. FILE: its name. MADE_BY: the stage."""

    FILE: ClassVar[str]
    MADE_BY: ClassVar[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it back.

        Raises:
            UserError: it is not there, or is not what this version reads; names the stage to run.
        """
        path = folder / cls.FILE
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")), path)
        except FileNotFoundError:
            raise UserError(f"{path}: not there. Run `dvc repro {cls.MADE_BY}` first.") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}). Run `{single_item_command(cls.MADE_BY)}`.") from None

    @classmethod
    def parse(cls, content: Any, path: Path) -> Self:
        """The artifact of a file's content.

        Raises:
            UserError: a key is missing, or its value is of another kind; `path` says where.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(
                f"{path}: not what this version reads ({key}: {first['msg'][0].lower()}{first['msg'][1:]}). "
                f"Run `{single_item_command(cls.MADE_BY)}`."
            ) from None

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        write_whole(folder / self.FILE, json.dumps(self.content(), indent=2) + "\n")


def read_table(path: Path, *, made_by: str) -> list[dict[str, str]]:
    """The rows of a stage's CSV file.

    Raises:
        UserError: it is not there; `made_by` is the stage to run.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Run `dvc repro {made_by}` first.") from None


def describe_method(best: Mapping[str, Values], control: Mapping[str, Values]) -> str:
    """What the best configuration trains with that its control does not: `SAR`, `SAR and total variation`.

    Both are the configurations of every method by its name (`RegularizerParams.configs`).
    """
    added = [name for name, each in best.items() if each["weight"] > 0 and not control.get(name, {}).get("weight")]
    words = [f"the plugin {best[name]['spec']}" if name == "plugin" else NAMES[name] for name in added]
    return " and ".join(words) or "the best configuration"


def describe_control(against: str) -> str:
    """What best.yaml says of the control, as short as a sentence has room for: no parameters' names, no clauses."""
    return against.partition(" (")[0].partition(", which")[0]


def search_run(state: Path, fingerprint: str) -> str | None:
    """The id of a search's parent run, if it was tracked from this checkout."""
    path = state / "searches" / fingerprint[:16] / RUN_FILE
    return path.read_text().strip() if path.exists() else None
