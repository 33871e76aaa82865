"""Folds of an outer cross-validation: every image is a test image once, of networks that have not seen it.

Each fold is a split of its own: its test ids are the fold, and the images of all other folds are divided into train and
val. Beside the folds stands the split of all images, by which the network is made that is registered; its test ids are
those that were kept apart from everything (the holdout), mostly none.

Folds are stratified. Groups are in one fold as a whole, and so are copies of an image: in a fold's train and val, too.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array  # type: ignore[import-untyped, unused-ignore]

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
    """The split of all images, with so many folds.

    Args:
        labels: (N,) int.
        seed: Of the draws of the holdout, the folds, and train and val of all images.
        fold_seeds: Of the draws inside each fold; there are so many folds, two at least.
        holdout: Share of all images that is kept apart from all folds and from training; 0: none.
        val_fraction: As of `make_split`, of the images that a split trains on or validates with.
        train_fraction: As of `make_split`.
        classes: Names by label, for messages.
        groups: Images that belong together.
        copies: (N,) int, equal for images that are copies of each other, which belong together too.

    Raises:
        UserError: a class with too few images, or groups, to be in every fold and in train and val of every fold.
    """
    count = len(fold_seeds)
    together = groups if copies is None else _with_copies(groups, copies)
    units = np.arange(len(labels)) if together is None else together.group_ids
    _check_counts(labels, units, count, classes, together)

    def divide(own_test: NDArray[np.bool_] | None, own_seed: int) -> Split:
        return make_split(
            labels,
            val_fraction=val_fraction,
            test_fraction=holdout,  # which is looked at where there is no test role yet
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
    """The fold of every image that is in one, in the order of `fold_ids`; folds are counted from 0."""
    ids = np.concatenate([fold.test for fold in split.folds])
    numbers = np.repeat(np.arange(len(split.folds)), [len(fold.test) for fold in split.folds])
    return np.asarray(numbers[np.argsort(ids)], dtype=np.int64)


def fold_ids(split: Split) -> Ids:
    """The ids that are a test image of a fold, ascending."""
    return np.sort(np.concatenate([fold.test for fold in split.folds]))


def _deal_images(labels: NDArray[np.int64], count: int, seed: int) -> Ids:
    """Folds (n,) of single images: class by class they are dealt out, each beginning where the last one ended."""
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
    """Folds (n,) of images whose groups stay whole: first a group of each class for each fold, then the large ones."""
    _, of = np.unique(group_ids, return_inverse=True)
    counts = csr_array(coo_array((np.ones(len(labels), np.int64), (of, labels))))
    wanted = np.tile(np.bincount(labels, minlength=counts.shape[1]) / count, (count, 1))
    assignment = Assignment(counts, wanted, seed)
    sizes = {int(label): len(np.unique(of[labels == label])) for label in np.unique(labels)}
    for label in sorted(sizes, key=lambda label: (sizes[label], label)):
        for fold in range(count):
            if not assignment.cover(label, fold):
                raise UserError(
                    f"{WHERE}: {count}: class {find_class(label, classes)} cannot be in every fold: its {sizes[label]} "
                    "groups have images of other classes too, and those need them elsewhere. Lower it, or make groups "
                    "smaller."
                )
    assignment.rest(range(count))
    return assignment.role[of].astype(np.int64)


def _with_copies(groups: Groups | None, copies: Ids) -> Groups | None:
    """Groups with the copies of their images, and copies of images on their own; None if nothing stays together."""
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
    """Refuse more folds than the rarest class can be in, with two of its images left to train and to validate on.

    units: (n,), equal for images that stay together.
    """
    sizes = {int(label): len(np.unique(units[labels == label])) for label in np.unique(labels)}
    rarest = min(sizes, key=lambda label: sizes[label])
    size = sizes[rarest]
    # The largest share of a class that a fold gets, where all are of one size.
    if size >= count and size - -(-size // count) >= 2:
        return
    what = "image" if groups is None else "group"
    together = "" if groups is None else " of images that stay together (split.group_by, or copies of an image)"
    raise UserError(
        f"{WHERE}: given {count}; class {find_class(rarest, classes)} has {size} {what}{'s' * (size != 1)}{together}"
        f"{outside}, and each class needs one in every fold, and two outside of it, to train and to validate on. "
        f"Lower it, or give that class more {what}s{'' if groups is None else ' (copies: split.duplicates: ignore)'}."
    )
