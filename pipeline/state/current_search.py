"""The search that params.yaml asks for, found without building a plan: a plan builds networks, which takes long."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import Content, Params
from pipeline.data.prepared.prepared import open_prepared
from pipeline.errors import UserError, quote_name
from pipeline.inputs.choice_metric import resolve_choice
from pipeline.inputs.data_split import compute_split
from pipeline.inputs.procedure import Part, split_parts
from pipeline.inputs.source import manifest_if_current
from pipeline.models.model_config import Weights
from pipeline.provenance.fingerprint import fingerprint_content
from pipeline.provenance.weights_record import read_note
from pipeline.state.searches import search_directory
from pipeline.tune.space import load_space
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class CurrentSearch:
    """A search as params.yaml asks for it, which may not have begun yet.

    Attributes:
        content: Content from which the fingerprint is computed (`fingerprint_content`).
        folder: Folder of the search, which may not exist yet.
        params: Parameters, with `search.choose.then: auto` replaced by the metric that the data give.
        folds: Searches outside of each fold, which belong to the search of all images; empty without folds.
    """

    content: Content
    folder: Path
    params: Params
    folds: tuple["CurrentSearch", ...] = ()

    @property
    def searches(self) -> Mapping[Path, "CurrentSearch"]:
        """All-image search and the searches of its folds, by folder. A fold's search contains only itself."""
        return {each.folder: each for each in (self, *self.folds)}


def current_search(
    workspace: Workspace, params: Params, weights: Mapping[str, Weights] | None = None
) -> CurrentSearch | None:
    """Returns the search that the parameters ask for; None if data/prepared does not fit them.

    The split is computed anew, because data/split.json may belong to other parameters.

    Args:
        workspace: Workspace in which the search is looked up.
        params: Parameters as they were read.
        weights: Pretrained weights by specification; None: those that were resolved last (`read_note`).

    Raises:
        UserError: the file of the search space is missing or wrong.
    """
    path = workspace.root / params.search.space
    if not path.is_file():
        raise UserError(f"params.yaml: search.space: no file {quote_name(params.search.space)}")
    space = load_space(path, params, shown_as=params.search.space)
    if manifest_if_current(workspace, params) is None:
        return None
    prepared = open_prepared(workspace.prepared)
    split = compute_split(workspace, params, prepared)
    known = read_note(workspace) if weights is None else weights

    def find(part: Part) -> CurrentSearch:
        hashes = {"data_hash": prepared.data_hash, "split_hash": part.split.split_hash}
        resolved = resolve_choice(part.params, prepared, part.split.val)
        content = fingerprint_content(resolved, space.content(), **hashes, weights=known)
        _, folder = search_directory(workspace.searches, content)
        return CurrentSearch(json.loads(json.dumps(content)), folder, resolved)

    whole, *folds = map(find, split_parts(workspace, params, split, data_hash=prepared.data_hash))
    return replace(whole, folds=tuple(folds))
