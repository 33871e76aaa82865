"""Image source that the parameters name, and detection of changes since data/prepared was made from it.

DVC tracks the parameters of `prepare`, but not the pictures in prepare.root. Most checkouts have none, and
dvc.yaml cannot list paths that may not exist. So `prepare` records in state/ what it read. `sar-search
check`, the first step of `make repro`, compares that record with the source.
"""

import json
import os
from typing import Any

from pipeline.config import Params
from pipeline.data.decode.masks import ADVICE
from pipeline.data.prepared.prepared import Manifest, open_prepared
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.data.sources.image_source import preview_dataset
from pipeline.data.sources.source_config import DatasetNotFound, Preview, SourceConfig, count_trainable
from pipeline.errors import UserError, single_item_command
from pipeline.files.atomic import write_whole
from pipeline.workspace import Workspace

NOTES_FILE = 50
"""Largest number of records that are stored."""
DATASETS_ROOT = "datasets"
"""Folder of known sets if prepare.root is null, in the checkout to which the state belongs."""


def source_config(workspace: Workspace, params: Params) -> SourceConfig:
    """Returns the configuration of the image source that the parameters name.

    A relative `prepare.root` is looked for below `workspace.root`, and then below `workspace.anchor`. The two differ
    only under `dvc exp run --temp`: there `root` is a temporary copy without the files that git does not track.
    `anchor` is the checkout from which it was started. If `prepare.root` is null, a known set is looked for in
    `datasets/` of `anchor`, and other sources have no root.

    Args:
        workspace: the checkout.
        params: its parameters.

    Raises:
        UserError: prepare.root lies in a folder that the pipeline writes and cleans, such as data/ or results/.
    """
    prepare = params.prepare
    root = workspace.anchor / DATASETS_ROOT if prepare.dataset in DATASETS else None
    if prepare.root is not None:
        root = workspace.root / prepare.root
        if not os.path.exists(root):  # unlike Path.exists, it accepts names of any length
            root = workspace.anchor / prepare.root
        if (folder := workspace.written_folder(root)) is not None:
            raise UserError(
                f"params.yaml: prepare.root: {prepare.root} lies in {folder.name}/, which the pipeline writes and "
                "cleans. Keep your pictures elsewhere."
            )
    return SourceConfig(
        dataset=prepare.dataset,
        image_size=prepare.image_size,
        root=root,
        root_shown=prepare.root or (DATASETS_ROOT if root else ""),
        cache=workspace.state / "prepare",
        download=prepare.download,
        class_list=workspace.root / prepare.class_list if prepare.class_list is not None else None,
        array_limit=int(prepare.array_limit_gb * 1e9),
        bit_depth=prepare.bit_depth,
    )


def preview_source(workspace: Workspace, params: Params) -> Preview:
    """Returns a preview of the source: its images, classes and channels.

    If the source is gone, but data/prepared was made from it, the preview comes from data/prepared.

    Args:
        workspace: the checkout.
        params: its parameters.

    Raises:
        UserError: the source cannot be used.
    """
    config = source_config(workspace, params)
    try:
        return preview_dataset(config)
    except UserError as error:
        if not isinstance(error, DatasetNotFound) and (config.root is None or os.path.exists(config.root)):
            raise
        made = manifest_if_current(workspace, params)
        if made is None:
            raise
        classes, prepared = tuple(made["classes"]), open_prepared(workspace.prepared)
        counts = count_trainable(prepared.labels, prepared.test, classes)
        return Preview(made["images"], classes, made["channels"], made.get("test_images"), class_counts=counts)


def note_source(workspace: Workspace, params: Params, source: Preview, data_hash: str) -> None:
    """Records the source from which data/prepared has just been made.

    Args:
        workspace: the checkout.
        params: its parameters.
        source: preview of the source.
        data_hash: hash of the prepared set.
    """
    path = workspace.state / "prepare" / "sources.json"
    notes = {name: note for name, note in _notes(workspace).items() if name != data_hash}
    notes[data_hash] = {"identity": source.identity, "images": source.images, "prepare": _options(params)}
    write_whole(path, json.dumps(dict(list(notes.items())[-NOTES_FILE:]), indent=1) + "\n")


def warn_of_masks(manifest: Manifest, masks: int) -> str:
    """Returns a warning if most masks of a set that has just been prepared tell nothing; empty if they do not.

    Args:
        manifest: manifest of the prepared set.
        masks: number of masks of the source; 0 if it has none.
    """
    found = manifest.get("remarks", {})
    useless = sum(found[kind]["files"] for kind in ADVICE if kind in found)
    if 2 * useless <= masks or not masks:
        return ""
    scored = "is scored against the others alone" if useless < masks else "cannot be scored"
    return (
        f"WARNING: {useless:,} of {masks:,} masks do not show where the object is, so attention {scored}. The lines "
        f"above name some of them. Correct them, and run `{single_item_command('prepare')}` "
        "(docs/own-images/decoding.md)."
    )


def check_source_unchanged(workspace: Workspace, params: Params, source: Preview) -> None:
    """Checks that the source has not changed since data/prepared was made from it.

    Args:
        workspace: the checkout.
        params: its parameters.
        source: preview of the source.

    Raises:
        UserError: it has; the message says how to prepare again.
    """
    made = manifest_if_current(workspace, params)
    if made is None or not source.identity:
        return
    note = _notes(workspace).get(made["data_hash"])
    if note and note["prepare"] == _options(params) and note["identity"] != source.identity:
        raise UserError(
            f"{params.prepare.root or DATASETS_ROOT}: has changed since data/prepared was made from it "
            f"({_describe_change(note['images'], source.images)}), and DVC does not detect that.\n"
            f"Run `{single_item_command('prepare')}`, then this command again. It prepares the current pictures. If "
            "they are the same as before, nothing is trained again; else their roles are drawn anew, and a new search "
            "begins."
        )


def _describe_change(then: int, now: int) -> str:
    if then != now:
        return f"{then:,} pictures then, {now:,} now"
    return f"the same number of pictures, {now:,}, but names, sizes or modification times differ"


def _options(params: Params) -> dict[str, Any]:
    return params.prepare.model_dump(exclude={"download"})  # download does not change the result


def manifest_if_current(workspace: Workspace, params: Params) -> Manifest | None:
    """Returns the manifest of data/prepared; None if other parameters made it.

    Args:
        workspace: the checkout.
        params: its parameters.
    """
    try:
        manifest = open_prepared(workspace.prepared).manifest
    except (UserError, EOFError, KeyError):
        return None
    note = _notes(workspace).get(str(manifest.get("data_hash")))
    return manifest if note and note["prepare"] == _options(params) else None


def _notes(workspace: Workspace) -> dict[str, Any]:
    try:
        notes = json.loads((workspace.state / "prepare" / "sources.json").read_text())
        return notes if isinstance(notes, dict) else {}
    except (OSError, ValueError):
        return {}
