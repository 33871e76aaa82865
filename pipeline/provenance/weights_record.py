"""Pretrained weights as a search's record has them: by hash in what decides it, and found again when it goes on.

What is not a file of the user's own (a registered model, a name of timm's) is kept in `state/pretrained/<hash>/`. What
was resolved last is noted there too, so that questions about searches need neither registry nor network. Imports no
torch.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.config import Params, Values
from pipeline.errors import UserError, quote_name, single_item_command
from pipeline.files.atomic import write_whole
from pipeline.files.file_stats import hash_file
from pipeline.files.paths import expand_home
from pipeline.models.model_config import RecordedWeights, Weights
from pipeline.train.sidecar import WEIGHTS
from pipeline.workspace import Workspace

PRETRAINED = "model.pretrained"
SOURCE = "regularizer.guided_transfer.source"
OPTIONS = "regularizer.plugin_options"
OPTION = "source"
"""The option of a plugin that loads a pretrained network which names it."""

DESCRIBED = ("model", "num_classes", "image_size", "channels")
"""What of a checkpoint's sidecar says which network it is."""


def cache_folder(workspace: Workspace, sha256: str) -> Path:
    """Where weights are kept that are no file of the user's own."""
    return workspace.state / "pretrained" / sha256[:16]


def find_local(workspace: Workspace, spec: str) -> Path | None:
    """The file, or a folder's weights, at a path of a specification: in the checkout, or where its state is."""
    for root in (workspace.root, workspace.anchor):
        path = root / _expand(spec)
        if os.path.isdir(path):  # unlike Path's, they take names of any length
            return path / WEIGHTS
        if os.path.isfile(path):
            return path
    return None


def replace_by_hashes(values: Values, weights: Mapping[str, Weights]) -> Values:
    """Values by dotted path, weights by their hash in the place of where they are."""
    return {path: _replace_by_hash(path, value, weights) for path, value in values.items()}


def hash_choices(space: Values, weights: Mapping[str, Weights]) -> Values:
    """A space's content, in which weights go by their hash; choices by both, since trials are known by their choice."""
    dimensions = {}
    for path, dimension in space["parameters"].items():
        hashes = [_replace_by_hash(path, choice, weights) for choice in dimension.get("choices", [])]
        same = hashes == dimension.get("choices", [])
        dimensions[path] = dimension if same else {**dimension, "weights": hashes}
    controls = {name: replace_by_hashes(values, weights) for name, values in space["controls"].items()}
    return {**space, "parameters": dimensions, "controls": controls}


def _replace_by_hash(path: str, given: Any, weights: Mapping[str, Weights]) -> Any:
    value = given
    if path == OPTIONS and isinstance(value, Mapping) and value.get(OPTION) in weights:
        return {**value, OPTION: _source_hash(weights[value[OPTION]])}
    if path not in (PRETRAINED, SOURCE) or not isinstance(value, str) or (value := _expand(value)) not in weights:
        return given
    return weights[value].sha256 if path == PRETRAINED else _source_hash(weights[value])


def _expand(spec: str) -> str:
    """As the parameters have it; a space's choices and a plugin's options are as they were written."""
    try:
        return expand_home(spec)
    except ValueError:
        return spec


def _source_hash(weights: Weights) -> str:
    """Of a network that is used as it was: the same tensors may be another one, such as one of other heads."""
    if weights.network is None:
        return weights.sha256
    content = json.dumps([weights.sha256, weights.network], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def to_json(weights: Mapping[str, Weights]) -> dict[str, dict[str, object]]:
    """What specifications were resolved to, a `RecordedWeights` each, for journal and results."""
    recorded = [RecordedWeights(each.sha256, each.resolved, _plain(each.network)) for each in weights.values()]
    return dict(zip(weights, map(asdict, recorded), strict=True))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def from_record(
    workspace: Workspace, recorded: Mapping[str, RecordedWeights], configs: Iterable[Params]
) -> dict[str, Weights]:
    """The very weights that a search has recorded, of those that these configurations use.

    Raises:
        UserError: the search had no such weights, or they have changed or gone since; says what to do.
    """
    found = {}
    for spec in dict.fromkeys(spec for config in configs for spec in used_specs(config, recorded)):
        if spec not in recorded:
            raise UserError(f"params.yaml: {spec}: the search had no such weights. Run `dvc repro search` first.")
        known = recorded[spec]
        sha256, anew = known.sha256, f"or search anew: `{single_item_command('search')}`, and then this again."
        kept = cache_folder(workspace, sha256) / WEIGHTS
        path = kept if kept.is_file() else find_local(workspace, spec)
        if path is None or not path.is_file():
            raise UserError(f"{spec}: its weights (sha256 {sha256[:8]}) are there no more. Bring them back, {anew}")
        if (now := hash_file(path)) != sha256:
            raise UserError(
                f"{spec}: has changed since the search (sha256 {sha256[:8]} then, {now[:8]} now). Put back what it "
                f"was, {anew}"
            )
        found[spec] = Weights(spec, str(path), sha256, known.resolved, known.network)
    return found


def used_specs(params: Params, recorded: Collection[str]) -> list[str]:
    """The specifications that a configuration uses; of a plugin's option only the record knows whether it is one."""
    guided, option = params.regularizer.guided_transfer, params.regularizer.plugin_options.get(OPTION)
    specs = [params.model.pretrained] if params.model.pretrained else []
    specs += [guided.source] if guided.source and (guided.weight or guided.watch) else []
    return specs + ([option] if isinstance(option, str) and option in recorded else [])


def describe_weights(weights: Mapping[str, Weights], begins: str | None, notes: Iterable[str]) -> list[str]:
    """A line for each, first the one that the network of params.yaml begins from, with how it was adapted to it."""
    words = []
    for spec, each in sorted(weights.items(), key=lambda item: item[0] != begins):
        means = f"{quote_name(spec)} -> {each.resolved}" if each.resolved else quote_name(spec)
        words.append("; ".join([f"{means}, sha256 {each.sha256[:8]}", *(notes if spec == begins else ())]))
    return words


def write_note(workspace: Workspace, weights: Mapping[str, Weights]) -> None:
    """Note what was resolved last."""
    if not weights and not _notes(workspace).exists():
        return
    write_whole(_notes(workspace), json.dumps(to_json(weights), indent=1) + "\n", concurrent=True)


def read_note(workspace: Workspace) -> dict[str, Weights]:
    """What was noted last; their paths are left out."""
    try:
        notes = json.loads(_notes(workspace).read_text())
        return {spec: Weights(spec, "", **known) for spec, known in notes.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def as_recorded(weights: Mapping[str, Weights], recorded: Mapping[str, RecordedWeights]) -> dict[str, Weights]:
    """The same specifications with the hashes that they have in a record."""
    return {
        spec: replace(each, sha256=recorded[spec].sha256, network=recorded[spec].network) if spec in recorded else each
        for spec, each in weights.items()
    }


def _notes(workspace: Workspace) -> Path:
    return workspace.state / "pretrained" / "resolved.json"
