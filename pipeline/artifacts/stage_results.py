"""Reads what stages have left in `results/`."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError, single_item_command

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


@dataclass(frozen=True)
class BestConfig:
    """best.yaml, read back. best: values of the best trial; controls: values by control name.

    weights: what the search's specifications of pretrained weights were resolved to, as
    `pipeline.provenance.weights_record` has it. against: what the control is, in words. parameters: those that it was
    found with, by dotted path.
    """

    fingerprint: str
    trial: str
    best: Mapping[str, Any]
    controls: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    against: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def control(self, name: str) -> Mapping[str, Any]:
        """A control's values.

        Raises:
            UserError: the search had no control of that name.
        """
        if name not in self.controls:
            raise UserError(f"params.yaml: retrain.control: the search's controls are {', '.join(self.controls)}.")
        return self.controls[name]


def read_best(folder: Path) -> BestConfig:
    """Read best.yaml of `results/search/`.

    Raises:
        UserError: it is not there or not whole.
    """
    path = folder / "best.yaml"
    if not path.exists():
        raise UserError(f"{path}: not there. Run `dvc repro search` first.")
    content = read_yaml(path)
    try:
        return BestConfig(
            content["fingerprint"],
            content["trial"],
            content["best"],
            content["controls"],
            content.get("weights", {}),
            content.get("against", ""),
            content.get("parameters", {}),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a search's result ({error}). Run `{single_item_command('search')}`.") from None


def read_json(path: Path, *, made_by: str) -> dict[str, Any]:
    """A stage's JSON file.

    Raises:
        UserError: it is not there or broken; `made_by` is the stage to run.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no mapping")
    except FileNotFoundError:
        raise UserError(f"{path}: not there. Run `dvc repro {made_by}` first.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Run `{single_item_command(made_by)}`.") from None
    return content


def look_of(evaluation: Mapping[str, Any]) -> int | None:
    """Which look at the test images an evaluation.json is of; earlier versions counted readings in its place."""
    found = evaluation.get("look", evaluation.get("test_reads"))
    return None if found is None else int(found)


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


def describe_method(best: Mapping[str, Mapping[str, Any]], control: Mapping[str, Mapping[str, Any]]) -> str:
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
