"""Whether what stands in `results/` belongs together, and to what params.yaml says now.

DVC notes the parameters that stand in params.yaml when a stage has ended. Where they were changed in a moment at which
no stage looks, it holds results of other parameters to be up to date.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.best_config import BestConfig, read_fold_searches
from pipeline.config import Params, Values, parameters, part_params
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError, format_value, join_lines, single_item_command
from pipeline.workspace import Workspace, part_folder

_ABSENT = object()

AGAIN = f"`{single_item_command('search')}`"


def check_agreement(
    workspace: Workspace, params: Params, fingerprint: str | None = None, folds: Mapping[int, str] | None = None
) -> None:
    """Refuse to build on best configurations that were found with other parameters than those of now.

    fingerprint: that of the search which what is built on says it comes from; None: that is the best configuration
    itself. folds: the same, of the searches outside of each fold, by its number.

    Raises:
        UserError: one is not of these parameters, or not of that search.
    """
    for number in (0, *read_fold_searches(workspace.results)):
        known = fingerprint if not number else (folds or {}).get(number)
        _check_search(part_folder(workspace.results / "search", number), part_params(params, number), known)


def _check_search(folder: Path, params: Params, fingerprint: str | None) -> None:
    path = folder / "best.yaml"
    if not path.is_file():
        return  # for the stages that go on from retraining it is no dependency
    found = BestConfig.read(folder)
    if fingerprint not in (None, found.fingerprint):
        raise UserError(
            f"{path}: of the search {found.fingerprint[:16]}, and what was retrained is of {str(fingerprint)[:16]}. "
            "Run `dvc repro` without naming a stage."
        )
    if changed := _changed(found, params):
        lines = [
            f"params.yaml: {path}: {format_value(was, 60)} then, {format_value(now, 60)} now"
            for path, (was, now) in changed
        ]
        raise UserError(
            f"{path}: found with other parameters than those of now:\n{join_lines(lines)}\n"
            f"Put them back; or run {AGAIN} to search with those of now, and then the same command again."
        )


def check_dvc_lock(workspace: Workspace, params: Params) -> None:
    """Refuse to take results for up to date because DVC does: it may have noted parameters that they are not of.

    Raises:
        UserError: dvc.lock has for the search the parameters of now, and best.yaml was found with others.
    """
    try:
        found = BestConfig.read(workspace.results / "search")
        stages: Any = read_yaml(workspace.root / "dvc.lock")["stages"]
        noted: Values = stages["search"]["params"]["params.yaml"]
    except (UserError, KeyError, TypeError):
        return
    if all(_noted(noted, path) == now for path, (_, now) in _changed(found, params)):
        check_agreement(workspace, params)


def _noted(noted: Values, path: str) -> Any:
    """The value of a parameter in dvc.lock, by itself or in a section that dvc.yaml lists whole."""
    if path in noted:
        return noted[path]
    section, _, rest = path.partition(".")
    value = noted.get(section)
    for key in rest.split("."):
        if not isinstance(value, dict) or key not in value:
            # What params.yaml leaves out has its default; a parameter of no section that is listed was not noted.
            default = parameters()[path].get_default(call_default_factory=True, validated_data={})
            return json.loads(json.dumps(default)) if section in noted else _ABSENT
        value = value[key]
    return value


def _changed(found: BestConfig, params: Params) -> list[tuple[str, tuple[Any, Any]]]:
    now = {path: json.loads(json.dumps(params.value(path))) for path in found.parameters}
    return [(path, (was, now[path])) for path, was in found.parameters.items() if was != now[path]]
