"""Base classes of this room, and the names that results use for arms and methods.

A class describes a stage's file, or a part of one: frozen values that are read from it and written to it.
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
"""A number that is written as it was read: an int is not converted to a float, nor a float to an int."""

BEST = "best"
"""Name of the arm with the best configuration. The other arm has the name of its control."""

NAMES = {
    "spatial_entropy": "SAR",
    "total_variation": "total variation",
    "head_disagreement": "head disagreement",
    "relative_localisation": "relative localisation",
    "guided_transfer": "guided transfer",
    "mask_supervision": "mask supervision",
    "locality_guidance": "locality guidance",
}
"""Names of the methods in sentences, by their names in parameters."""

RUN_FILE = "mlflow_run"
"""File in a search's state folder that holds the id of its parent run."""


class Record(BaseModel):
    """A part of a stage's file. Its keys are the fields, in their order; fields that were not given are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    def content(self) -> dict[str, Any]:
        """Returns the record as a JSON-compatible dictionary."""
        return self.model_dump(exclude_unset=True, warnings=False)


class Artifact(Record):
    """A JSON file that a stage writes to its folder of results/.

    Attributes:
        FILE: Name of the file.
        MADE_BY: Name of the stage.
    """

    FILE: ClassVar[str]
    MADE_BY: ClassVar[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Returns the artifact that a stage has written to a folder.

        Raises:
            UserError: the file is missing, or this version cannot read it. The message names the stage to run.
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
        """Returns the artifact with a file's content.

        Raises:
            UserError: a key is missing, or its value has another type. The message names `path` and the key.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(
                f"{path}: is not in the form that this version reads ({key}: {first['msg'][0].lower()}"
                f"{first['msg'][1:]}). Run `{single_item_command(cls.MADE_BY)}`."
            ) from None

    def write(self, folder: Path) -> None:
        """Writes the file atomically."""
        write_whole(folder / self.FILE, json.dumps(self.content(), indent=2) + "\n")


def read_table(path: Path, *, made_by: str) -> list[dict[str, str]]:
    """Returns the rows of a stage's CSV file, each by column name.

    Args:
        path: The CSV file.
        made_by: Name of the stage that writes it, for the error message.

    Raises:
        UserError: the file cannot be read. The message names the stage to run.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Run `dvc repro {made_by}` first.") from None


def describe_method(best: Mapping[str, Values], control: Mapping[str, Values]) -> str:
    """Names the methods that only the best configuration trains with: `SAR`, `SAR and total variation`.

    Args:
        best: Configuration of every method in the best configuration, by method name (`RegularizerParams.configs`).
        control: The same of the control.

    Returns:
        The names; "the best configuration" if there are none.
    """
    added = [name for name, each in best.items() if each["weight"] > 0 and not control.get(name, {}).get("weight")]
    words = [f"the plugin {best[name]['spec']}" if name == "plugin" else NAMES[name] for name in added]
    return " and ".join(words) or "the best configuration"


def describe_control(against: str) -> str:
    """Shortens the description of the control in best.yaml for use in a sentence, without parameter names and clauses.

    Args:
        against: Description of the control, as best.yaml has it.
    """
    return against.partition(" (")[0].partition(", which")[0]


def search_run(state: Path, fingerprint: str) -> str | None:
    """Returns the MLflow id of a search's parent run; None if the search was not tracked from this checkout.

    Args:
        state: Folder `state/`.
        fingerprint: Fingerprint of the search.
    """
    path = state / "searches" / fingerprint[:16] / RUN_FILE
    return path.read_text().strip() if path.exists() else None
