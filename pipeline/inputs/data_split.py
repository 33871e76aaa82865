"""The split that the parameters ask for, and what it was made of."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Params, fold_seed
from pipeline.data.prepared.prepared import Prepared
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
"""Beside the split: classes, groups and copies, role by role."""
COPIES_FORMAT = 1
"""Goes up when other pictures would be found to be copies."""


@dataclass(frozen=True)
class SplitInputs:
    """A split and what it was made of. names: of the images' files, by row, None for sets that were no files.

    copies: None where they were not looked for. moved: images that went into train because of their copies.
    """

    split: Split
    names: tuple[str, ...] | None
    groups: Groups | None
    copies: Duplicates | None
    moved: int = 0


def compute_split(workspace: Workspace, params: Params, prepared: Prepared) -> Split:
    """Roles of a prepared set's images.

    Raises:
        UserError: as `prepare_split`.
    """
    groups = _groups(workspace, params, file_names(workspace.prepared, prepared))
    if not _looks_for_copies(params):
        return _make_split(params, prepared, groups)
    return _make_split(params, prepared, groups, recorded_duplicates(workspace, params, prepared))


def prepare_split(workspace: Workspace, params: Params, prepared: Prepared) -> SplitInputs:
    """Roles of a prepared set's images, with what is to be told of them.

    Raises:
        UserError: a class with too few images, or groups, to be in every role; test classes that train never has; a
            split.group_by that cannot be used.
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
    """The copies among a prepared set's images; looked for once, since that takes seconds, and kept in `state/`."""
    path = workspace.state / "split" / "copies.json"
    key = f"{COPIES_FORMAT} {prepared.data_hash} {params.split.duplicate_distance}"
    try:
        kept = json.loads(path.read_text())
        if kept["key"] == key:
            return Duplicates(*(np.array(kept[kind], dtype=np.int64).reshape(-1, 2) for kind in ("exact", "near")))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or one that a crash has left
    copies = find_duplicates(prepared.images, params.split.duplicate_distance)
    content = {"key": key, "exact": copies.exact.tolist(), "near": copies.near.tolist()}
    with suppress(OSError):  # a full disk costs the next one its seconds, no more
        write_whole(path, json.dumps(content), concurrent=True)
    return copies


def _looks_for_copies(params: Params) -> bool:
    """Whether copies decide the split: they move, or they stay together in folds."""
    return params.split.duplicates == "move" or (
        params.evaluate.folds is not None and params.split.duplicates != "ignore"
    )


def _make_split(params: Params, prepared: Prepared, groups: Groups | None, copies: Duplicates | None = None) -> Split:
    if params.evaluate.folds is not None:
        check_folds(params, has_test=prepared.test is not None)
        return make_folds(
            prepared.labels,
            seed=params.base.seed,
            fold_seeds=[fold_seed(params.base.seed, number + 1) for number in range(params.evaluate.folds)],
            holdout=params.evaluate.holdout,
            val_fraction=params.split.val_fraction,
            train_fraction=params.split.train_fraction,
            classes=prepared.classes,
            groups=groups,
            copies=None if copies is None else copies.clusters(len(prepared.labels)),
        )
    return make_split(
        prepared.labels,
        val_fraction=params.split.val_fraction,
        test_fraction=params.split.test_fraction,
        seed=params.base.seed,
        train_fraction=params.split.train_fraction,
        own_test=prepared.test,
        classes=prepared.classes,
        groups=groups,
        copies=None if copies is None else copies.clusters(len(prepared.labels)),
    )


def check_folds(params: Params, *, has_test: bool) -> None:
    """Refuse folds of a set that has a test split of its own, and a holdout without folds.

    Raises:
        UserError: either of these.
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
            "Folds would mix it with the other images, and what is lost is that its figures can be compared with those "
            "that others report on that split. Set it to null."
        )


def file_names(folder: Path, prepared: Prepared) -> tuple[str, ...] | None:
    """Names of the prepared images' files by row; None for sets that were no files.

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
    # The copy of the checkout that `dvc exp run --temp` works in lacks what git does not know.
    there = workspace.root / given
    return there if there.exists() else workspace.anchor / given


def group_by_content(workspace: Workspace, params: Params) -> dict[str, Any] | None:
    """What split.group_by says, with the hash of the file that it names."""
    given = params.split.group_by
    if given is None:
        return None
    digest = hash_file(_table(workspace, given)) if is_table(given) else None
    return {"given": given, "sha256": digest}


def check_group_by(workspace: Workspace, params: Params) -> None:
    """What can be known of split.group_by before images are: that it can be read, and is what the split was made by.

    Raises:
        UserError: it cannot be used; or its file has changed since, which DVC does not see.
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
        made_by = json.loads((workspace.split.with_name(REPORT)).read_text(encoding="utf-8"))["group_by"]
        made_by = {key: made_by[key] for key in ("given", "sha256")}
    except (OSError, ValueError, KeyError, TypeError):
        return
    if made_by["given"] == given and made_by != group_by_content(workspace, params):
        raise UserError(
            f"{quote_name(given)}: has changed since data/split.json was made by it, and DVC does not see that by "
            "itself.\n"
            f"Run `{single_item_command('split')}`, and then this again."
        )
