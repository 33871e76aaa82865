"""The split into three disjoint roles, as image ids: train and val for the search, test for `evaluate` alone.

A split is stratified and seeded. Retraining uses train and val together; only `evaluate` reads test.
`pipeline.data.splits.assignment` draws the roles, and `pipeline.data.splits.folds` draws the folds, each of
which is a split of its own.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.splits.assignment import (
    ROLES,
    TEST,
    VAL,
    Ids,
    draw_groups,
    draw_images,
    find_class,
    fraction_to_count,
    move_duplicates_to_train,
    union_clusters,
)
from pipeline.data.splits.groups import Groups
from pipeline.errors import UserError, single_item_command
from pipeline.files.atomic import write_whole

__all__ = ["Ids", "Split", "make_split", "read_split", "write_split"]


@dataclass(frozen=True)
class Split:
    """Ids (row numbers of the prepared arrays) by role, ascending.

    Attributes:
        train: Ids to train on.
        val: Ids to validate with.
        test: Ids for the evaluation.
        folds: Splits of an outer cross-validation (`pipeline.data.splits.folds`), whose test ids together are
            all ids except `test`. Empty without a cross-validation.
    """

    train: Ids
    val: Ids
    test: Ids
    folds: tuple["Split", ...] = ()

    @property
    def split_hash(self) -> str:
        """Hash of the roles. It does not include the folds, each of which has its own hash."""
        return hashlib.sha256(json.dumps(self.ids_by_role(), sort_keys=True).encode()).hexdigest()

    @property
    def tested(self) -> list[Ids]:
        """Test ids that the verdict is based on: those of every fold, or without folds those of the test role."""
        return [fold.test for fold in self.folds] or [self.test]

    def ids_by_role(self) -> dict[str, list[int]]:
        """Returns the ids as plain data."""
        return {role: getattr(self, role).tolist() for role in ROLES}


def make_split(
    labels: NDArray[np.int64],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    train_fraction: float = 1.0,
    own_test: NDArray[np.bool_] | None = None,
    classes: Sequence[str] | None = None,
    groups: Groups | None = None,
    copies: Ids | None = None,
) -> Split:
    """Divides ids into roles, class by class.

    Shares are rounded within each class. Each class has at least one image in train, in val and, without
    own_test, in test.

    Args:
        labels: (N,) int.
        val_fraction: Share of the images outside of test that is used for val.
        test_fraction: Share of all images that is used for test; ignored with own_test.
        seed: Seed of the draws.
        train_fraction: Share of train, and of val, that is used. With the same seed, the images of a smaller
            share are in the same roles with a larger share.
        own_test: Membership in the set's own test split, (N,) bool; None: test is drawn.
        classes: Names by label, for messages; None: labels are shown.
        groups: Groups of images that get the same role, as near to the shares as that allows; None: images
            are single.
        copies: Equal for images that are copies of each other, (N,) int. If copies of an image are in several
            roles, all of them move to train, together with the rest of their groups. None: copies are not
            moved.

    Raises:
        UserError: If a class has too few images, or groups, to be in every role; if test has classes that
            train does not have; if a group has images inside and outside of own_test; or if a role lacks a
            class after copies have moved.
    """
    free = np.flatnonzero(~own_test) if own_test is not None else np.arange(len(labels))
    if own_test is not None:
        _check_test_is_trained(np.setdiff1d(labels[own_test], labels[free]), classes)
    orders: dict[int, Ids] = {}
    for label in np.unique(labels):
        ids = np.flatnonzero(labels == label)
        inside = free[labels[free] == label]
        _check_count(len(inside), int(label), own_test is not None, classes)
        drawn = np.random.default_rng([seed, int(label)]).permutation(inside)
        orders[int(label)] = np.concatenate([drawn, np.setdiff1d(ids, inside)])
    shares = {"test": test_fraction if own_test is None else 0.0, "val": val_fraction}
    if groups is None:
        roles = draw_images(orders, shares, own_test, len(labels))
    else:
        roles = draw_groups(labels, groups, shares, own_test, seed=seed, classes=classes)
    if copies is not None:
        roles = move_duplicates_to_train(roles, copies if groups is None else union_clusters(copies, groups.group_ids))
        _check_nothing_lost(labels, roles, own_test is not None, classes)
    parts: dict[str, list[Ids]] = {role: [] for role in ROLES}
    for order in orders.values():
        for number, role in enumerate(ROLES):
            kept = order[roles[order] == number]
            parts[role].append(
                kept if role == "test" else kept[: fraction_to_count(train_fraction, len(kept), leave=0)]
            )
    train, val, test = (np.sort(np.concatenate(parts[role])) for role in ROLES)
    return Split(train, val, test)


def _check_test_is_trained(unseen: NDArray[np.int64], classes: Sequence[str] | None) -> None:
    if len(unseen):
        named = ", ".join(find_class(int(label), classes) for label in unseen[:5]) + (" ..." if len(unseen) > 5 else "")
        raise UserError(
            f"the test set has classes that the training images do not have: {named}. Add training images of these "
            "classes, or remove them from the test set."
        )


def _check_count(count: int, label: int, own_test: bool, classes: Sequence[str] | None) -> None:
    """Checks that a class has enough images for every role.

    Args:
        count: Images of the class outside of the set's own test split.
        label: The class.
        own_test: Whether the set has its own test split.
        classes: Names by label; None: labels are shown.
    """
    needed, uses = (2, "train and validate") if own_test else (3, "train, validate and test")
    if count < needed:
        where = " outside the test set" if own_test else ""
        raise UserError(
            f"class {find_class(label, classes)} has {count} image{'' if count == 1 else 's'}{where}; "
            f"each class needs at least {needed}, one each to {uses} on."
        )


def _check_nothing_lost(
    labels: NDArray[np.int64], roles: NDArray[np.int8], own_test: bool, classes: Sequence[str] | None
) -> None:
    """Checks that no role lacks a class after copies have moved.

    Args:
        labels: (N,).
        roles: (N,).
        own_test: Whether the set has its own test split, which need not have every class, but some image.
        classes: Names by label; None: labels are shown.
    """
    for role in (VAL, TEST):
        lost = np.setdiff1d(labels, labels[roles == role])
        if role == TEST and own_test:
            lost = lost[:0] if (roles == TEST).any() else lost
        if len(lost):
            raise UserError(
                f"params.yaml: split.duplicates: move: would leave no {ROLES[role]} images of class "
                f"{find_class(int(lost[0]), classes)}: all of them have copies in another role, or are grouped with "
                "copies. Remove copies from the set, lower split.duplicate_distance, or set split.duplicates: report."
            )


def write_split(split: Split, path: Path, *, data_hash: str, seed: int) -> None:
    """Writes a split with its folds as JSON.

    Args:
        split: The split.
        path: The file.
        data_hash: Hash of the data that the ids refer to, which is stored with them.
        seed: Seed of the split, which is stored, too.
    """
    content: dict[str, object] = {"format": 1, "data_hash": data_hash, "split_hash": split.split_hash, "seed": seed}
    content |= split.ids_by_role()
    if split.folds:
        content["folds"] = [fold.ids_by_role() for fold in split.folds]
    write_whole(path, json.dumps(content) + "\n")


def read_split(path: Path, *, data_hash: str) -> Split:
    """Reads a split, and checks that it belongs to the current data.

    Args:
        path: The file.
        data_hash: Hash of the current data.

    Raises:
        UserError: If the file is missing, malformed, or refers to other data.
    """
    try:
        content = json.loads(path.read_text())
        split = replace(_from_ids(content), folds=tuple(_from_ids(fold) for fold in content.get("folds", ())))
        made_of = content["data_hash"]
    except FileNotFoundError:
        raise UserError(f"{path}: not there. Run `dvc repro split` first.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a split ({error}). Run `{single_item_command('split')}`.") from None
    if made_of != data_hash:
        raise UserError(f"{path}: made of other data than data/prepared holds. Run `dvc repro split`.")
    return split


def _from_ids(content: Mapping[str, Sequence[int]]) -> Split:
    train, val, test = (np.asarray(content[role], dtype=np.int64) for role in ROLES)
    return Split(train, val, test)


def examples_by_class(ids: Ids, labels: NDArray[np.int64], count: int) -> list[int]:
    """Returns `count` of the ids, or all, taking one of each class in turn; always the same ones for the same split.

    Args:
        ids: Ids to choose from.
        labels: Labels by id, (N,).
        count: Largest number of ids.
    """
    by_class: dict[int, list[int]] = {}
    for index in ids:
        by_class.setdefault(int(labels[index]), []).append(int(index))
    queues: Sequence[list[int]] = [by_class[label] for label in sorted(by_class)]
    turns = range(max((len(queue) for queue in queues), default=0))
    return [queue[turn] for turn in turns for queue in queues if turn < len(queue)][:count]
