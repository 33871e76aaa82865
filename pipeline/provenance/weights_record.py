"""Pretrained weights in the record of a search: by hash in its content, and found again when the search is resumed.

Weights that are not a file of the user's own (a registered model, a name of timm's) are stored in
`state/pretrained/<hash>/`. The last resolved weights are recorded there too, so that questions about searches need
neither registry nor network. This module does not import torch.
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
"""The option of a plug-in that names a pretrained network."""

DESCRIBED = ("model", "num_classes", "image_size", "channels")
"""Keys of a checkpoint's sidecar that describe the network."""


def cache_folder(workspace: Workspace, sha256: str) -> Path:
    """Returns the folder in which weights are stored that are no file of the user's own.

    Args:
        workspace: Workspace of the checkout.
        sha256: SHA-256 of the weights.
    """
    return workspace.state / "pretrained" / sha256[:16]


def find_local(workspace: Workspace, spec: str) -> Path | None:
    """Returns the file of weights at the path of a specification, in the checkout or in the folder with its state.

    Args:
        workspace: Workspace of the checkout.
        spec: Specification of the weights, which may be a path.

    Returns:
        The file, or a folder's file of weights; None if there is none.
    """
    for root in (workspace.root, workspace.anchor):
        path = root / _expand(spec)
        if os.path.isdir(path):  # unlike Path.is_dir, os.path.isdir accepts names of any length
            return path / WEIGHTS
        if os.path.isfile(path):
            return path
    return None


def replace_by_hashes(values: Values, weights: Mapping[str, Weights]) -> Values:
    """Returns values with weights replaced by their hashes.

    Args:
        values: Values by dotted path.
        weights: Weights by specification.
    """
    return {path: _replace_by_hash(path, value, weights) for path, value in values.items()}


def hash_choices(space: Values, weights: Mapping[str, Weights]) -> Values:
    """Returns the content of a search space with weights replaced by their hashes.

    Choices keep their specification beside the hash, because trials are identified by their choice.

    Args:
        space: Content of the space.
        weights: Weights by specification.
    """
    dimensions = {}
    for path, dimension in space["parameters"].items():
        hashes = [_replace_by_hash(path, choice, weights) for choice in dimension.get("choices", [])]
        same = hashes == dimension.get("choices", [])
        dimensions[path] = dimension if same else {**dimension, "weights": hashes}
    controls = {name: replace_by_hashes(values, weights) for name, values in space["controls"].items()}
    return {**space, "parameters": dimensions, "controls": controls}


def _replace_by_hash(path: str, given: Any, weights: Mapping[str, Weights]) -> Any:
    """Returns a value with weights replaced by their hash; values without weights are unchanged.

    Args:
        path: Dotted path of the parameter.
        given: The value.
        weights: Weights by specification.
    """
    value = given
    if path == OPTIONS and isinstance(value, Mapping) and value.get(OPTION) in weights:
        return {**value, OPTION: _source_hash(weights[value[OPTION]])}
    if path not in (PRETRAINED, SOURCE) or not isinstance(value, str) or (value := _expand(value)) not in weights:
        return given
    return weights[value].sha256 if path == PRETRAINED else _source_hash(weights[value])


def _expand(spec: str) -> str:
    """Returns a specification with `~` expanded, as in parameters. Spaces and options of plug-ins have it
    unexpanded.
    """
    try:
        return expand_home(spec)
    except ValueError:
        return spec


def _source_hash(weights: Weights) -> str:
    """Returns the hash of a network that is used as a whole, from its weights and its configuration.

    The weights' hash alone would not suffice: the same tensors may belong to another network, such as one with
    other heads.
    """
    if weights.network is None:
        return weights.sha256
    content = json.dumps([weights.sha256, weights.network], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def to_json(weights: Mapping[str, Weights]) -> dict[str, dict[str, object]]:
    """Returns the content of a `RecordedWeights` for each specification, for journal and results.

    Args:
        weights: Weights by specification.
    """
    recorded = [RecordedWeights(each.sha256, each.resolved, _plain(each.network)) for each in weights.values()]
    return dict(zip(weights, map(asdict, recorded), strict=True))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def from_record(
    workspace: Workspace, recorded: Mapping[str, RecordedWeights], configs: Iterable[Params]
) -> dict[str, Weights]:
    """Returns the weights that a search has recorded, of the specifications that some configurations use.

    Args:
        workspace: Workspace of the checkout.
        recorded: Recorded weights by specification.
        configs: The configurations.

    Raises:
        UserError: the search did not record a specification, or its file has changed or is missing. The message
            says what to do.
    """
    found = {}
    for spec in dict.fromkeys(spec for config in configs for spec in used_specs(config, recorded)):
        if spec not in recorded:
            raise UserError(f"params.yaml: {spec}: the search had no such weights. Run `dvc repro search` first.")
        known = recorded[spec]
        sha256 = known.sha256
        anew = f"or search anew: run `{single_item_command('search')}`, and then this command again."
        kept = cache_folder(workspace, sha256) / WEIGHTS
        path = kept if kept.is_file() else find_local(workspace, spec)
        if path is None or not path.is_file():
            raise UserError(f"{spec}: its weights (sha256 {sha256[:8]}) no longer exist. Restore them, {anew}")
        if (now := hash_file(path)) != sha256:
            raise UserError(
                f"{spec}: has changed since the search (sha256 {sha256[:8]} then, {now[:8]} now). Restore it, {anew}"
            )
        found[spec] = Weights(spec, str(path), sha256, known.resolved, known.network)
    return found


def used_specs(params: Params, recorded: Collection[str]) -> list[str]:
    """Returns the specifications of weights that a configuration uses.

    Args:
        params: The configuration.
        recorded: Recorded specifications, which tell whether a plug-in's option is one.
    """
    guided, option = params.regularizer.guided_transfer, params.regularizer.plugin_options.get(OPTION)
    specs = [params.model.pretrained] if params.model.pretrained else []
    specs += [guided.source] if guided.source and (guided.weight or guided.watch) else []
    return specs + ([option] if isinstance(option, str) and option in recorded else [])


def describe_weights(weights: Mapping[str, Weights], begins: str | None, notes: Iterable[str]) -> list[str]:
    """Returns a line for each specification, the initial weights of params.yaml's network first.

    Args:
        weights: Weights by specification.
        begins: Specification of the initial weights; None without one.
        notes: Remarks on how these weights were adapted to the network.
    """
    words = []
    for spec, each in sorted(weights.items(), key=lambda item: item[0] != begins):
        means = f"{quote_name(spec)} -> {each.resolved}" if each.resolved else quote_name(spec)
        words.append("; ".join([f"{means}, sha256 {each.sha256[:8]}", *(notes if spec == begins else ())]))
    return words


def write_note(workspace: Workspace, weights: Mapping[str, Weights]) -> None:
    """Records the weights that were resolved last, for `read_note`.

    Args:
        workspace: Workspace of the checkout.
        weights: Weights by specification.
    """
    if not weights and not _notes(workspace).exists():
        return
    write_whole(_notes(workspace), json.dumps(to_json(weights), indent=1) + "\n", concurrent=True)


def read_note(workspace: Workspace) -> dict[str, Weights]:
    """Returns the weights that were resolved last, by specification, without their paths.

    Args:
        workspace: Workspace of the checkout.
    """
    try:
        notes = json.loads(_notes(workspace).read_text())
        return {spec: Weights(spec, "", **known) for spec, known in notes.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def as_recorded(weights: Mapping[str, Weights], recorded: Mapping[str, RecordedWeights]) -> dict[str, Weights]:
    """Returns the weights with the hashes and networks that they have in a record.

    Args:
        weights: Weights by specification.
        recorded: Recorded weights by specification.
    """
    return {
        spec: replace(each, sha256=recorded[spec].sha256, network=recorded[spec].network) if spec in recorded else each
        for spec, each in weights.items()
    }


def _notes(workspace: Workspace) -> Path:
    return workspace.state / "pretrained" / "resolved.json"
