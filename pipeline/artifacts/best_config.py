"""What `search` leaves for retraining: best.yaml, of all images and of each fold, and the list of the folds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field
from ruamel.yaml import YAML

from pipeline.artifacts.stage_results import Artifact, Record
from pipeline.config import Values
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError
from pipeline.files.atomic import replace_file
from pipeline.models.model_config import RecordedWeights
from pipeline.workspace import FOLDS, part_folder


class BestConfig(Artifact):
    """best.yaml. best: values of the best trial; controls: values by control name. against: what the control is, in
    words. parameters: those that it was found with, by dotted path. weights: by specification.
    """

    FILE: ClassVar[str] = "best.yaml"
    MADE_BY: ClassVar[str] = "search"

    fingerprint: str
    trial: str
    best: Values
    controls: Mapping[str, Values]
    against: str = ""
    parameters: Values = Field({})
    weights: Mapping[str, RecordedWeights] = Field({})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it back, with the line that is wrong if one is.

        Raises:
            UserError: as of every artifact.
        """
        path = folder / cls.FILE
        if not path.exists():
            raise UserError(f"{path}: not there. Run `dvc repro {cls.MADE_BY}` first.")
        return cls.parse(read_yaml(path), path)

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        yaml, content = YAML(typ="safe", pure=True), self.content()
        yaml.default_flow_style = False
        # Unescaped, these end a line, and come back as a space.
        yaml.allow_unicode = not any(mark in json.dumps(content, ensure_ascii=False) for mark in "\x85\u2028\u2029")
        with replace_file(folder / self.FILE) as partial, partial.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)

    def control(self, name: str) -> Values:
        """A control's values.

        Raises:
            UserError: the search had no control of that name.
        """
        if name not in self.controls:
            raise UserError(f"params.yaml: retrain.control: the search's controls are {', '.join(self.controls)}.")
        return self.controls[name]

    def with_control(self, name: str, values: Values, against: str) -> "BestConfig":
        """The same with another control of this name, and what that is."""
        return self.model_copy(update={"controls": {**self.controls, name: dict(values)}, "against": against})


class FoldSearch(Record):
    """A search outside of a fold, and what it has found."""

    fold: int
    fingerprint: str
    trial: str
    best: Values


class FoldSearches(Artifact):
    """searches.json: the searches outside of the folds, none without folds."""

    FILE: ClassVar[str] = "searches.json"
    MADE_BY: ClassVar[str] = "search"

    folds: Sequence[FoldSearch]


def read_fold_searches(results: Path) -> dict[int, BestConfig]:
    """What the searches outside of the folds have found, by the fold's number; nothing without folds.

    results: the folder results/.

    Raises:
        UserError: the results of one of them are not there, or broken.
    """
    folder = results / "search"
    numbers = sorted(int(path.name) for path in (folder / FOLDS).glob("*") if path.is_dir() and path.name.isdecimal())
    return {number: BestConfig.read(part_folder(folder, number)) for number in numbers}
