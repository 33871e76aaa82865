"""Folds of an outer cross-validation: every image is a test image once, for networks that were not trained on it.

Each fold is a split of its own. Its test ids are the fold, and the images of all other folds are divided into
train and val. Beside the folds there is a split of all images, from which the network to be registered is
trained. Its test ids are the holdout, which no fold and no training uses; usually it is empty.

Folds are stratified. A group is in one fold as a whole, and so are all copies of an image. They also stay
together in a fold's train and val.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.data.splits.assignment import Assignment, Ids, find_class, union_clusters
from pipeline.data.splits.groups import Groups
from pipeline.data.splits.split import Split, make_split
from pipeline.errors import UserError

WHERE = "params.yaml: evaluate.folds"


def make_folds(
    labels: NDArray[np.int64],
    *,
    seed: int,
    fold_seeds: Sequence[int],
    holdout: float,
    val_fraction: float,
    train_fraction: float = 1.0,
    classes: Sequence[str] | None = None,
    groups: Groups | None = None,
    copies: Ids | None = None,
) -> Split:
    """Returns the split of all images, with one fold per fold seed.

    Args:
        labels: (N,) int.
        seed: Seed for drawing the holdout, the folds, and train and val of all images.
        fold_seeds: Seed for drawing train and val of each fold. Their number is the number of folds, at least
            two.
        holdout: Share of all images that no fold and no training uses; 0: none.
        val_fraction: As for `make_split`: share of the images outside of test.
        train_fraction: As for `make_split`.
        classes: Names by label, for messages; None: labels are shown.
        groups: Images that belong together; None: images are single.
        copies: Equal for images that are copies of each other, which belong together, too, (N,) int; None:
            not considered.

    Raises:
        UserError: If a class has too few images, or groups, to be in every fold and in train and val of every
            fold.
    """
    count = len(fold_seeds)
    together = groups if copies is None else _with_copies(groups, copies)
    units = np.arange(len(labels)) if together is None else together.group_ids
    _check_counts(labels, units, count, classes, together)

    def divide(own_test: NDArray[np.bool_] | None, own_seed: int) -> Split:
        return make_split(
            labels,
            val_fraction=val_fraction,
            test_fraction=holdout,  # only used if own_test is None
            train_fraction=train_fraction,
            own_test=own_test,
            seed=own_seed,
            classes=classes,
            groups=together,
        )

    whole = divide(None if holdout else np.zeros(len(labels), np.bool_), seed)
    used = np.ones(len(labels), np.bool_)
    used[whole.test] = False
    if holdout:
        _check_counts(labels[used], units[used], count, classes, together, outside=" outside of the holdout")
    number = np.full(len(labels), -1)
    if together is None:
        number[used] = _deal_images(labels[used], count, seed)
    else:
        number[used] = _deal_groups(labels[used], together.group_ids[used], count, seed, classes)
    folds = []
    for fold in range(count):
        try:
            inner = divide(~used | (number == fold), fold_seeds[fold])
        except UserError as error:
            raise UserError(f"{WHERE}: {count}: the images outside fold {fold + 1} cannot be split: {error}") from None
        folds.append(Split(inner.train, inner.val, np.flatnonzero(number == fold)))
    return replace(whole, folds=tuple(folds))


def fold_numbers(split: Split) -> NDArray[np.int64]:
    """Returns the fold of every image that is in one, from 0, in the order of `fold_ids`.

    Args:
        split: A split with folds.
    """
    ids = np.concatenate([fold.test for fold in split.folds])
    numbers = np.repeat(np.arange(len(split.folds)), [len(fold.test) for fold in split.folds])
    return np.asarray(numbers[np.argsort(ids)], dtype=np.int64)


def fold_ids(split: Split) -> Ids:
    """Returns the ids that are a test image of a fold, ascending.

    Args:
        split: A split with folds.
    """
    return np.sort(np.concatenate([fold.test for fold in split.folds]))


def _deal_images(labels: NDArray[np.int64], count: int, seed: int) -> Ids:
    """Returns the folds of images without groups, (n,).

    Each class is dealt out in turn to the folds, starting after the fold at which the previous class ended.

    Args:
        labels: (n,).
        count: Number of folds.
        seed: Seed of the order.
    """
    number = np.empty(len(labels), np.int64)
    dealt = 0
    for label in np.unique(labels):
        order = np.random.default_rng([seed, int(label), 0x666F]).permutation(np.flatnonzero(labels == label))
        number[order] = (dealt + np.arange(len(order))) % count
        dealt += len(order)
    return number


def _deal_groups(
    labels: NDArray[np.int64], group_ids: Ids, count: int, seed: int, classes: Sequence[str] | None
) -> Ids:
    """Returns the folds of images whose groups stay whole, (n,).

    First each class gets one group in every fold; then the other groups follow, large ones first.

    Args:
        labels: (n,).
        group_ids: Group of each image, (n,).
        count: Number of folds.
        seed: Seed of the order.
        classes: Names by label, for messages; None: labels are shown.

    Raises:
        UserError: If a class cannot be in every fold.
    """
    assignment = Assignment(labels, group_ids, np.tile(np.bincount(labels) / count, (count, 1)), seed)
    folds = assignment.assign(
        range(count),
        lambda label, _: (
            f"{WHERE}: {count}: class {find_class(label, classes)} cannot be in every fold: for one fold no group is "
            f"left, since its {assignment.sizes[label]} groups are all in other folds, where other classes need some "
            "of them. Lower the number of folds, or make groups smaller."
        ),
    )
    return folds.astype(np.int64)


def _with_copies(groups: Groups | None, copies: Ids) -> Groups | None:
    """Returns groups in which copies of an image are together, too; None if no images belong together."""
    clusters = copies if groups is None else union_clusters(copies, groups.group_ids)
    _, of, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    if groups is None and sizes.max() == 1:
        return None
    names: dict[int, str] = {}
    for row, cluster in enumerate(of.tolist()):
        if groups is not None and groups.group_ids[row] < len(groups.names):
            names.setdefault(cluster, groups.names[int(groups.group_ids[row])])
    for row, cluster in enumerate(of.tolist()):
        if sizes[cluster] > 1:
            names.setdefault(cluster, f"image {row} and its copies")
    place = {cluster: index for index, cluster in enumerate(names)}
    numbers = [place.get(cluster, len(names) + row) for row, cluster in enumerate(of.tolist())]
    return Groups(np.array(numbers, dtype=np.int64), tuple(names.values()))


def _check_counts(
    labels: NDArray[np.int64],
    units: Ids,
    count: int,
    classes: Sequence[str] | None,
    groups: Groups | None,
    *,
    outside: str = "",
) -> None:
    """Checks that the rarest class can be in every fold, and leave two of its images for train and val.

    Args:
        labels: (n,).
        units: Equal for images that stay together, (n,).
        count: Number of folds.
        classes: Names by label; None: labels are shown.
        groups: None if every image is a unit of its own.
        outside: Text that says to which images the counts refer.

    Raises:
        UserError: If it cannot.
    """
    sizes = {int(label): len(np.unique(units[labels == label])) for label in np.unique(labels)}
    rarest = min(sizes, key=lambda label: sizes[label])
    size = sizes[rarest]
    # The class's largest fold has ceil(size / count) units if all units are equally large.
    if size >= count and size - -(-size // count) >= 2:
        return
    what = "image" if groups is None else "group"
    together = "" if groups is None else " of images that stay together (split.group_by, or copies of an image)"
    raise UserError(
        f"{WHERE}: given {count}; class {find_class(rarest, classes)} has {size} {what}{'s' * (size != 1)}{together}"
        f"{outside}, and each class needs one in every fold, and two outside of it, to train and to validate on. "
        f"Lower it, or give that class more {what}s{'' if groups is None else ' (copies: split.duplicates: ignore)'}."
    )
