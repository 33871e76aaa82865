"""Results of `search` that retraining reads: best.yaml of all images and of each fold, and the list of the folds."""

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
    """Content of best.yaml.

    Attributes:
        fingerprint: Fingerprint of the search.
        trial: Id of the best trial.
        best: Values of the best trial by dotted path.
        controls: Values by dotted path, by the name of the control.
        against: Description of the control in words.
        parameters: Values of params.yaml with which the search ran, by dotted path.
        weights: Pretrained weights by specification.
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
        """Returns the artifact that `search` has written to a folder. An error message contains the number of the
        wrong line.

        Raises:
            UserError: the file is missing, or this version cannot read it. The message names the stage to run.
        """
        path = folder / cls.FILE
        if not path.exists():
            raise UserError(f"{path}: not there. Run `dvc repro {cls.MADE_BY}` first.")
        return cls.parse(read_yaml(path), path)

    def write(self, folder: Path) -> None:
        """Writes the file atomically."""
        yaml, content = YAML(typ="safe", pure=True), self.content()
        yaml.default_flow_style = False
        # YAML takes these characters for line breaks unless they are escaped, and reads them as a space.
        yaml.allow_unicode = not any(mark in json.dumps(content, ensure_ascii=False) for mark in "\x85\u2028\u2029")
        with replace_file(folder / self.FILE) as partial, partial.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)

    def control(self, name: str) -> Values:
        """Returns a control's values by dotted path.

        Raises:
            UserError: the search had no control of that name.
        """
        if name not in self.controls:
            raise UserError(
                f"params.yaml: retrain.control: the search had no control {name}; its controls are "
                f"{', '.join(self.controls)}. Set it to one of these."
            )
        return self.controls[name]

    def with_control(self, name: str, values: Values, against: str) -> "BestConfig":
        """Returns a copy with another configuration for a control.

        Args:
            name: Name of the control.
            values: Its values by dotted path.
            against: Description of the control in words.
        """
        return self.model_copy(update={"controls": {**self.controls, name: dict(values)}, "against": against})


class FoldSearch(Record):
    """Result of a search outside of a fold.

    Attributes:
        fold: Number of the fold, from 1.
        fingerprint: Fingerprint of the search.
        trial: Id of the best trial.
        best: Values of the best trial by dotted path.
    """

    fold: int
    fingerprint: str
    trial: str
    best: Values


class FoldSearches(Artifact):
    """Content of searches.json: the searches outside of the folds, empty without folds."""

    FILE: ClassVar[str] = "searches.json"
    MADE_BY: ClassVar[str] = "search"

    folds: Sequence[FoldSearch]


def read_fold_searches(results: Path) -> dict[int, BestConfig]:
    """Returns the best configurations of the searches outside of the folds, by fold number; empty without folds.

    Args:
        results: Folder `results/`.

    Raises:
        UserError: the best.yaml of one of them is missing or cannot be read.
    """
    folder = results / "search"
    numbers = sorted(int(path.name) for path in (folder / FOLDS).glob("*") if path.is_dir() and path.name.isdecimal())
    return {number: BestConfig.read(part_folder(folder, number)) for number in numbers}
