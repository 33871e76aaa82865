"""Split that the parameters ask for, with its groups and duplicates."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Params, fold_seed
from pipeline.console.format import format_count
from pipeline.data.prepared.prepared import Prepared, open_prepared
from pipeline.data.splits.duplicates import Duplicates, find_duplicates
from pipeline.data.splits.folds import make_folds
from pipeline.data.splits.groups import (
    WHERE,
    Groups,
    compile_pattern,
    groups_by_pattern,
    groups_from_table,
    is_table,
    read_table,
)
from pipeline.data.splits.split import Split, make_split
from pipeline.errors import UserError, quote_name, single_item_command
from pipeline.files.atomic import write_whole
from pipeline.files.file_stats import hash_file
from pipeline.workspace import Workspace

REPORT = "split_report.json"
"""File beside the split with classes, groups and copies by role."""
COPIES_FORMAT = 1
"""Version of the stored duplicates. It goes up when the same images would give others."""


@dataclass(frozen=True)
class SplitInputs:
    """A split and the inputs of its making.

    Attributes:
        split: the split.
        names: file names of the images by row; None for sets without files.
        groups: groups of images that stay together; None without `split.group_by`.
        copies: duplicates among the images; None if they were not looked for.
        moved: number of images that were put into train because of their duplicates.
    """

    split: Split
    names: tuple[str, ...] | None
    groups: Groups | None
    copies: Duplicates | None
    moved: int = 0


def compute_split(workspace: Workspace, params: Params, prepared: Prepared) -> Split:
    """Returns the split of a prepared set.

    Args:
        workspace: the checkout.
        params: its parameters.
        prepared: the prepared set.

    Raises:
        UserError: as for `prepare_split`.
    """
    groups = _groups(workspace, params, file_names(workspace.prepared, prepared))
    if not _looks_for_copies(params):
        return _make_split(params, prepared, groups)
    return _make_split(params, prepared, groups, recorded_duplicates(workspace, params, prepared))


def prepare_split(workspace: Workspace, params: Params, prepared: Prepared) -> SplitInputs:
    """Returns the split of a prepared set, with the inputs that its report describes.

    Args:
        workspace: the checkout.
        params: its parameters.
        prepared: the prepared set.

    Raises:
        UserError: a class has too few images or groups for all roles, test classes are missing in train, or
            split.group_by cannot be used.
    """
    names = file_names(workspace.prepared, prepared)
    groups = _groups(workspace, params, names)
    if params.evaluate.folds is not None:
        found = recorded_duplicates(workspace, params, prepared) if _looks_for_copies(params) else None
        return SplitInputs(_make_split(params, prepared, groups, found), names, groups, found)
    split = _make_split(params, prepared, groups)
    if params.split.duplicates == "ignore":
        return SplitInputs(split, names, groups, None)
    copies = recorded_duplicates(workspace, params, prepared)
    if params.split.duplicates != "move":
        return SplitInputs(split, names, groups, copies)
    whole = params.with_values({"split.train_fraction": 1.0}, where="split")
    before, after = _make_split(whole, prepared, groups), _make_split(whole, prepared, groups, copies)
    moved = len(after.train) - len(before.train)
    return SplitInputs(_make_split(params, prepared, groups, copies), names, groups, copies, moved)


def recorded_duplicates(workspace: Workspace, params: Params, prepared: Prepared) -> Duplicates:
    """Returns the duplicates among a prepared set's images.

    Finding them takes seconds, so they are stored in `state/`.

    Args:
        workspace: the checkout.
        params: its parameters.
        prepared: the prepared set.
    """
    path = workspace.state / "split" / "copies.json"
    key = f"{COPIES_FORMAT} {prepared.data_hash} {params.split.duplicate_distance}"
    try:
        kept = json.loads(path.read_text())
        if kept["key"] == key:
            return Duplicates(*(np.array(kept[kind], dtype=np.int64).reshape(-1, 2) for kind in ("exact", "near")))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none yet, or a crash has damaged it
    copies = find_duplicates(prepared.images, params.split.duplicate_distance)
    content = {"key": key, "exact": copies.exact.tolist(), "near": copies.near.tolist()}
    with suppress(OSError):  # with a full disk, the next call only computes them again
        write_whole(path, json.dumps(content), concurrent=True)
    return copies


def _looks_for_copies(params: Params) -> bool:
    """Returns whether duplicates affect the split: they are moved, or stay together in folds."""
    return params.split.duplicates == "move" or (
        params.evaluate.folds is not None and params.split.duplicates != "ignore"
    )


def _make_split(params: Params, prepared: Prepared, groups: Groups | None, copies: Duplicates | None = None) -> Split:
    """Returns a split, with folds if `evaluate.folds` is set.

    Args:
        params: the parameters.
        prepared: the prepared set.
        groups: groups of images that stay together, or None.
        copies: duplicates that stay together, or None.
    """
    shared: dict[str, Any] = {
        "seed": params.base.seed,
        "val_fraction": params.split.val_fraction,
        "train_fraction": params.split.train_fraction,
        "classes": prepared.classes,
        "groups": groups,
        "copies": None if copies is None else copies.clusters(len(prepared.labels)),
    }
    if params.evaluate.folds is not None:
        check_folds(params, has_test=prepared.test is not None)
        return make_folds(
            prepared.labels,
            fold_seeds=[fold_seed(params.base.seed, number + 1) for number in range(params.evaluate.folds)],
            holdout=params.evaluate.holdout,
            **shared,
        )
    return make_split(prepared.labels, test_fraction=params.split.test_fraction, own_test=prepared.test, **shared)


def check_folds(params: Params, *, has_test: bool) -> None:
    """Checks that the set allows folds, and that a holdout comes with folds.

    Args:
        params: the parameters.
        has_test: whether the set has its own test split.

    Raises:
        UserError: the set has its own test split, or there is a holdout without folds.
    """
    evaluate = params.evaluate
    if evaluate.folds is None:
        if evaluate.holdout:
            raise UserError(
                f"params.yaml: evaluate.holdout: given {evaluate.holdout:g}, and evaluate.folds is null: without folds "
                "the test images are those of split.test_fraction. Set it to 0, or evaluate.folds to 5 or more."
            )
        return
    if has_test:
        raise UserError(
            f"params.yaml: evaluate.folds: given {evaluate.folds}; {params.set_name} has a test split of its own. "
            "Folds would mix it with the other images, and its results could no longer be compared with those "
            "that others report on that split. Set it to null."
        )


def file_names(folder: Path, prepared: Prepared) -> tuple[str, ...] | None:
    """Returns the file names of the prepared images by row; None for sets without files.

    Args:
        folder: folder of the prepared set.
        prepared: the prepared set.

    Raises:
        UserError: files.json is broken.
    """
    path = folder / "files.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Run `{single_item_command('prepare')}`.") from None
    if not isinstance(names, list) or len(names) != len(prepared.labels):
        raise UserError(
            f"{path}: does not name {len(prepared.labels):,} images. Run `{single_item_command('prepare')}`."
        )
    return tuple(str(name) for name in names)


def _groups(workspace: Workspace, params: Params, names: tuple[str, ...] | None) -> Groups | None:
    """Returns the groups of `split.group_by`; None without it.

    Args:
        workspace: the checkout.
        params: its parameters.
        names: file names of the images, or None.

    Raises:
        UserError: the images have no file names, or the table or pattern cannot be used.
    """
    given = params.split.group_by
    if given is None:
        return None
    if names is None:
        raise UserError(_nameless(params))
    if is_table(given):
        return groups_from_table(_table(workspace, given), names, shown_as=given)
    return groups_by_pattern(given, names)


def _nameless(params: Params) -> str:
    return f"{WHERE}: the images of {params.set_name} have no file names to group them by. Set it to null."


def _table(workspace: Workspace, given: str) -> Path:
    # `dvc exp run --temp` works in a copy of the checkout without the files that git does not track.
    there = workspace.root / given
    return there if there.exists() else workspace.anchor / given


def group_by_content(workspace: Workspace, params: Params) -> dict[str, Any] | None:
    """Returns the value of split.group_by and the SHA-256 of the file that it names; None without a value.

    Args:
        workspace: the checkout.
        params: its parameters.
    """
    given = params.split.group_by
    if given is None:
        return None
    digest = hash_file(_table(workspace, given)) if is_table(given) else None
    return {"given": given, "sha256": digest}


def read_split_report(workspace: Workspace) -> Mapping[str, Any]:
    """Returns the split's report; empty if there is none, or if it is damaged.

    Args:
        workspace: the checkout.
    """
    try:
        report = json.loads(workspace.split.with_name(REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def count_copies(report: Mapping[str, Any], kind: str) -> int | None:
    """Returns how many images of test or val have copies in another role; None if copies were not looked for.

    Args:
        report: the split's report.
        kind: "exact" or "near".
    """
    found = report.get("duplicates", {}).get(kind)
    return None if found is None else found["test"] + found["val"]


def describe_faults(workspace: Workspace) -> str:
    """Returns a sentence on the files that were left out and the copies that stayed; empty if there are none.

    Args:
        workspace: the checkout.
    """
    faults, report = [], read_split_report(workspace)
    with suppress(UserError):  # results can be read where the prepared set is not
        if skipped := open_prepared(workspace.prepared).manifest.get("skipped"):
            faults.append(f"{format_count(len(skipped), 'broken file')} left out")
    for kind in ("exact", "near"):
        if count := count_copies(report, kind):
            faults.append(f"{format_count(count, 'image')} of test or val with {kind} copies in another role")
    if differ := (report.get("duplicates", {}).get("exact") or {}).get("different_labels"):
        faults.append(f"{format_count(differ, 'image')} with an exact copy that has another class")
    return f"The pictures: {', '.join(faults)}." if faults else ""


def check_group_by(workspace: Workspace, params: Params) -> None:
    """Checks split.group_by as far as that is possible without images.

    It must be readable, and its file must be the one from which the split was made.

    Args:
        workspace: the checkout.
        params: its parameters.

    Raises:
        UserError: it cannot be used, or its file has changed since. DVC does not detect such a change.
    """
    given = params.split.group_by
    if given is None:
        return
    if params.prepare.dataset == "digits":
        raise UserError(_nameless(params))
    if not is_table(given):
        compile_pattern(given)
        return
    read_table(_table(workspace, given), shown_as=given)
    try:
        made_by = {key: read_split_report(workspace)["group_by"][key] for key in ("given", "sha256")}
    except (KeyError, TypeError):
        return
    if made_by["given"] == given and made_by != group_by_content(workspace, params):
        raise UserError(
            f"{quote_name(given)}: has changed since data/split.json was made with it, and DVC does not detect "
            "that.\n"
            f"Run `{single_item_command('split')}`, and then this command again."
        )
