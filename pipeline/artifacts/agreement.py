"""Checks that the files in `results/` belong together and to the current params.yaml.

When a stage has ended, DVC records the parameters that are in params.yaml at that time. If they were changed while no
stage checked them, DVC regards results of other parameters as up to date.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.best_config import BestConfig, read_fold_searches
from pipeline.config import Params, Values, parameters, part_params
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError, format_value, join_lines, single_item_command
from pipeline.provenance.stage_inputs import value_at
from pipeline.workspace import Workspace, part_folder

_ABSENT = object()

AGAIN = f"`{single_item_command('search')}`"


def check_agreement(
    workspace: Workspace, params: Params, fingerprint: str | None = None, folds: Mapping[int, str] | None = None
) -> None:
    """Checks that the best configurations were found with the current parameters, and by the expected searches.

    Args:
        workspace: Workspace with the results.
        params: Current parameters.
        fingerprint: Fingerprint of the search that the caller's results record. None if the caller builds on
            best.yaml itself, which is then checked against the parameters alone.
        folds: The same for the searches outside of the folds, by the number of the fold; None like `fingerprint`.

    Raises:
        UserError: a best configuration belongs to other parameters or to another search.
    """
    for number in (0, *read_fold_searches(workspace.results)):
        known = fingerprint if not number else (folds or {}).get(number)
        _check_search(part_folder(workspace.results / "search", number), part_params(params, number), known)


def _check_search(folder: Path, params: Params, fingerprint: str | None) -> None:
    """Checks the best configuration in one folder, if there is one.

    Args:
        folder: Folder with best.yaml.
        params: Current parameters, of this part of the procedure.
        fingerprint: Fingerprint of the expected search; None for any.
    """
    path = folder / "best.yaml"
    if not path.is_file():
        return  # stages after retraining do not depend on best.yaml, so it may be missing
    found = BestConfig.read(folder)
    if fingerprint not in (None, found.fingerprint):
        raise UserError(
            f"{path}: comes from search {found.fingerprint[:16]}, but the retrained networks come from search "
            f"{str(fingerprint)[:16]}. Run `dvc repro` without naming a stage."
        )
    if changed := _changed(found, params):
        lines = [
            f"params.yaml: {path}: {format_value(was, 60)} then, {format_value(now, 60)} now"
            for path, (was, now) in changed
        ]
        raise UserError(
            f"{path}: its search had other parameters than the current ones:\n{join_lines(lines)}\n"
            f"Restore the earlier values; or run {AGAIN} to search with the current ones, and then the same command "
            "again."
        )


def check_dvc_lock(workspace: Workspace, params: Params) -> None:
    """Checks that results which DVC regards as up to date were found with the current parameters.

    Args:
        workspace: Workspace with dvc.lock and the results.
        params: Current parameters.

    Raises:
        UserError: dvc.lock contains the current parameters for the search, but best.yaml was found with others.
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
    """Returns the value of a parameter in dvc.lock, which lists it alone or within a whole section."""
    if path in noted:
        return noted[path]
    section, _, rest = path.partition(".")
    value = value_at(noted.get(section), rest, _ABSENT)
    if value is not _ABSENT or section not in noted:
        return value
    # A parameter that params.yaml leaves out has its default. If its section is not listed, DVC has not recorded it.
    default = parameters()[path].get_default(call_default_factory=True, validated_data={})
    return json.loads(json.dumps(default))


def _changed(found: BestConfig, params: Params) -> list[tuple[str, tuple[Any, Any]]]:
    now = {path: json.loads(json.dumps(params.value(path))) for path in found.parameters}
    return [(path, (was, now[path])) for path, was in found.parameters.items() if was != now[path]]
