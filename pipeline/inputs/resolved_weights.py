"""Resolution of pretrained weights, when a plan is made: from a specification to a file, its hash and its network.

vit_tiny_patch16_224.augreg_in21k   a name in timm, which fetches the weights into its own cache
weights/mine.pth, weights/best       a file, or the folder of a checkpoint
models:/sar-photos@champion, .../3   a registered model; an alias means its current version
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import timm
from safetensors.torch import save_file

from pipeline.config import Params
from pipeline.errors import UserError, quote_name
from pipeline.files.file_stats import hash_file
from pipeline.models.model_config import NetworkRecord, Weights
from pipeline.models.source_network import fetch_timm
from pipeline.models.weights import SUFFIXES
from pipeline.provenance.weights_record import (
    DESCRIBED,
    OPTION,
    OPTIONS,
    PRETRAINED,
    SOURCE,
    cache_folder,
    find_local,
)
from pipeline.regularizers.plugin import accepts_source
from pipeline.tracking.registry.weights_download import fetch_checkpoint, find_version
from pipeline.tracking.store import Store, prepare_store, resolve_store
from pipeline.train.sidecar import SIDECAR, WEIGHTS, read_sidecar
from pipeline.workspace import Workspace

CACHE_FOLDER = "kept.json"
"""File beside cached weights: the name they were fetched as, their SHA-256 and their network."""


def resolve_weights(workspace: Workspace, configs: Iterable[tuple[str, Params]]) -> dict[str, Weights]:
    """Returns all weights from which configurations begin or by which they are guided, by specification.

    Fetched weights are stored in `state/pretrained/` and not fetched again.

    Args:
        workspace: the checkout.
        configs: (origin, parameters) of each configuration. The origin is named in messages.

    Raises:
        UserError: weights are missing or cannot be fetched; the message names the origin and a remedy.
    """
    found: dict[str, Weights] = {}
    for where, config in configs:
        for path, spec in _parse_spec(config):
            if spec in found:
                continue
            try:
                found[spec] = _resolve(workspace, spec, config)
            except (UserError, ValueError) as error:
                raise UserError(f"{where}: {path}: {quote_name(spec)}: {error}") from None
            except OSError as error:
                raise UserError(
                    f"{where}: {path}: {quote_name(spec)}: cannot be read, or cannot be copied into state/: {error}"
                ) from None
    return found


def _parse_spec(config: Params) -> Iterator[tuple[str, str]]:
    """Yields (parameter, specification) of the weights that a configuration uses."""
    if config.model.pretrained is not None:
        yield PRETRAINED, config.model.pretrained
    regularizer = config.regularizer
    guided, plugin, option = (
        regularizer.guided_transfer,
        regularizer.used_plugin,
        regularizer.plugin_options.get(OPTION),
    )
    if guided.source is not None and (guided.weight or guided.watch):
        yield SOURCE, guided.source
    if plugin and isinstance(option, str) and accepts_source(plugin):
        yield OPTIONS, option


def _resolve(workspace: Workspace, spec: str, params: Params) -> Weights:
    """Resolves one specification.

    Args:
        workspace: the checkout.
        spec: the specification.
        params: the configuration, for the address of the tracking store.

    Raises:
        ValueError: the weights do not exist, or lie where the pipeline writes.
    """
    if spec.startswith("models:"):
        store = resolve_store(params.tracking.uri, workspace.anchor)
        prepare_store(store)
        return _fetch_registered(workspace, spec, store)
    path = find_local(workspace, spec)
    if path is None and (spec.endswith(SUFFIXES) or "/" in spec):
        raise ValueError(f"there is no such file or folder in {workspace.root}")
    if path is None:
        return _fetch_from_timm(workspace, spec)
    if (folder := workspace.written_folder(path)) is not None:
        raise ValueError(
            f"lies in {folder.name}/, which the pipeline writes and cleans; copy it elsewhere, or name a registered "
            "model (models:/name/version)"
        )
    network = None
    if path.name == WEIGHTS and not spec.endswith(SUFFIXES):  # a folder was named
        network = _network_of(path.parent)
    return Weights(spec, str(path), hash_file(path), "", network)


def _network_of(checkpoint: Path) -> NetworkRecord:
    """Returns the network that a checkpoint's sidecar describes."""
    if not (checkpoint / SIDECAR).is_file() or not (checkpoint / WEIGHTS).is_file():
        raise ValueError(f"is no checkpoint's folder: it lacks {WEIGHTS} or {SIDECAR}; name a file, or such a folder")
    sidecar: NetworkRecord = read_sidecar(checkpoint)
    if missing := [key for key in DESCRIBED if key not in sidecar]:
        raise ValueError(f"{SIDECAR} lacks {', '.join(missing)}")
    return _described(sidecar)


def _described(sidecar: NetworkRecord) -> NetworkRecord:
    return {key: sidecar[key] for key in DESCRIBED}


def _fetch_registered(workspace: Workspace, spec: str, store: Store) -> Weights:
    """Fetches the weights of a registered model, unless they are cached.

    Args:
        workspace: the checkout.
        spec: a models:/ address.
        store: the tracking store.
    """
    name, version = find_version(store, spec)

    def fetch(folder: Path) -> NetworkRecord:
        checkpoint = fetch_checkpoint(store, name, version, folder / "fetched")
        os.replace(checkpoint / WEIGHTS, folder / WEIGHTS)
        return _described(read_sidecar(checkpoint))

    kept = _cached(workspace, f"models:/{name}/{version} of {store.shown}", fetch)
    return replace(kept, spec=spec, resolved=f"version {version}")


def _fetch_from_timm(workspace: Workspace, spec: str) -> Weights:
    def fetch(folder: Path) -> NetworkRecord:
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in fetch_timm(spec).items()}
        save_file(tensors, folder / WEIGHTS)
        return {"timm": spec}

    # A name may mean other weights in another release of timm.
    kept = _cached(workspace, f"{spec} of timm {timm.__version__}", fetch)
    return replace(kept, spec=spec, resolved=f"timm {timm.__version__}")


def _cached(workspace: Workspace, fetched_as: str, fetch: Callable[[Path], NetworkRecord]) -> Weights:
    """Returns cached weights, and fetches them first if necessary.

    Args:
        workspace: the checkout.
        fetched_as: name and version that identify the weights.
        fetch: writes the weights into a folder and returns the network's record.
    """
    root = workspace.state / "pretrained"
    for notes in sorted(root.glob(f"*/{CACHE_FOLDER}")):
        known = json.loads(notes.read_text())
        if known["fetched_as"] == fetched_as and (notes.parent / WEIGHTS).is_file():
            return Weights("", str(notes.parent / WEIGHTS), known["sha256"], "", known["network"])
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as temporary:
        ready = Path(temporary) / "ready"
        ready.mkdir()
        network = dict(fetch(ready))
        sha256 = hash_file(ready / WEIGHTS)
        known = {"fetched_as": fetched_as, "sha256": sha256, "network": network}
        (ready / CACHE_FOLDER).write_text(json.dumps(known, indent=1) + "\n")
        shutil.rmtree(ready / "fetched", ignore_errors=True)
        folder = cache_folder(workspace, sha256)
        shutil.rmtree(folder, ignore_errors=True)  # the same weights, fetched by another name
        os.replace(ready, folder)
    return Weights("", str(folder / WEIGHTS), sha256, "", network)
