"""Draws the role of each image: class by class, or group by group where images belong together."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array  # type: ignore[import-untyped, unused-ignore]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped, unused-ignore]

from pipeline.data.splits.groups import WHERE, Groups
from pipeline.errors import UserError

Ids = NDArray[np.int64]
Roles = NDArray[np.int8]

ROLES = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)


def fraction_to_count(fraction: float, count: int, *, leave: int) -> int:
    """A share of some images: at least one of them, and so many left."""
    return min(max(1, round(fraction * count)), count - leave)


def find_class(label: int, classes: Sequence[str] | None) -> str:
    """A class as messages have it."""
    return str(label) if classes is None else classes[label]


def draw_images(
    orders: Mapping[int, Ids], shares: Mapping[str, float], own_test: NDArray[np.bool_] | None, count: int
) -> Roles:
    """Roles (count,) of single images: the first of each class's order are test, then val, then train.

    orders: each class's ids in random order. shares: of all for test, of the rest for val. own_test: (count,) bool:
    test beforehand.
    """
    roles = np.full(count, TRAIN, dtype=np.int8)
    for order in orders.values():
        free = order if own_test is None else order[~own_test[order]]
        test = fraction_to_count(shares["test"], len(free), leave=2) if own_test is None else 0
        val = fraction_to_count(shares["val"], len(free) - test, leave=1)
        roles[free[:test]], roles[free[test : test + val]] = TEST, VAL
    if own_test is not None:
        roles[own_test] = TEST
    return roles


def draw_groups(
    labels: NDArray[np.int64],
    groups: Groups,
    shares: Mapping[str, float],
    own_test: NDArray[np.bool_] | None,
    *,
    seed: int,
    classes: Sequence[str] | None = None,
) -> Roles:
    """Roles (N,) of images whose groups stay whole, with each class in every role.

    First every class gets one group into each role, the class of fewest groups first, the group nearest in size to what
    the role is to have. Then the groups that are left go, large ones first, where the squared distance to the
    shares, summed over roles and classes and relative to the class, becomes least. Order and ties come from the seed.

    Raises:
        UserError: a group with images inside and outside own_test; a class with too few groups, or whose groups cannot
            be in every role because they share them with other classes.
    """
    free = np.arange(len(labels)) if own_test is None else np.flatnonzero(~own_test)
    if own_test is not None:
        _check_own_test_whole(groups, own_test)
    _, of = np.unique(groups.group_ids[free], return_inverse=True)
    used = [VAL, TRAIN] if own_test is not None else [TEST, VAL, TRAIN]
    counts = csr_array(coo_array((np.ones(len(free), np.int64), (of, labels[free]))))
    assignment = Assignment(counts, _wanted(labels[free], counts.shape[1], shares, own_test is not None), seed)
    present = np.unique(labels[free])
    sizes = {int(label): len(np.unique(of[labels[free] == label])) for label in present}
    for label, size in sizes.items():
        if size < len(used):
            raise UserError(_too_few(label, size, labels[free], groups, free, used, classes))
    for label in sorted(sizes, key=lambda label: (sizes[label], label)):
        for role in used:
            if not assignment.cover(label, role):
                raise UserError(
                    f"{WHERE}: class {find_class(label, classes)} cannot be in {ROLES[role]} without being missed in "
                    f"another role: its {sizes[label]} groups have images of other classes too, and those need them "
                    "elsewhere. Make groups smaller, or give that class more of them."
                )
    assignment.rest(used)
    roles = np.full(len(labels), TEST, dtype=np.int8)
    roles[free] = assignment.role[of]
    return roles


def component_numbers(first: Ids, second: Ids, count: int) -> Ids:
    """A number (count,) for every node, the same for those that edges from first (E,) to second (E,) connect."""
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    numbers: Ids = connected_components(graph, directed=False)[1].astype(np.int64)
    return numbers


def union_clusters(one: Ids, other: Ids) -> Ids:
    """Clusters (N,) of what is connected by equal numbers in one (N,) or in the other (N,)."""
    offset = int(one.max(initial=-1)) + 1
    _, other = np.unique(other, return_inverse=True)
    size = offset + int(other.max(initial=-1)) + 1
    # A node a number, an edge an image.
    return component_numbers(one, offset + other, size)[one]


def move_duplicates_to_train(roles: Roles, clusters: Ids) -> Roles:
    """Roles (N,) after every cluster (N,) that was in several roles has gone into train as a whole."""
    lowest, highest = (np.full(clusters.max() + 1, start, dtype=np.int8) for start in (TEST, TRAIN))
    np.minimum.at(lowest, clusters, roles)
    np.maximum.at(highest, clusters, roles)
    return np.where((lowest != highest)[clusters], np.int8(TRAIN), roles)


class Assignment:
    """Groups on their way into roles, or into folds. counts: (G, C), images of a group in a class. wanted: (R, C), how
    many images of each class the roles are to have.
    """

    def __init__(self, counts: csr_array, wanted: NDArray[np.float64], seed: int) -> None:
        self._counts, self._by_class, self._wanted = counts, counts.tocsc(), wanted
        self._scale = 1.0 / np.maximum(wanted.sum(axis=0), 1.0) ** 2
        self._have = np.zeros_like(wanted)
        # Their place in a random order, by which ties are broken.
        self._place = np.random.default_rng([seed, 0x6721]).permutation(counts.shape[0])
        self.role = np.full(counts.shape[0], -1, dtype=np.int8)
        """The role of each group (G,), by its number; -1 where it has none yet."""

    def cover(self, label: int, role: int) -> bool:
        """See to it that a class is in a role. False: none of its groups is left for that."""
        if self._have[role, label]:
            return True
        column = slice(self._by_class.indptr[label], self._by_class.indptr[label + 1])
        groups, sizes = self._by_class.indices[column], self._by_class.data[column]
        left = self.role[groups] < 0
        groups, sizes = groups[left], sizes[left]
        if not len(groups):
            return False
        best = np.lexsort((self._place[groups], np.abs(sizes - self._wanted[role, label])))[0]
        self._assign(int(groups[best]), role)
        return True

    def rest(self, used: Sequence[int]) -> None:
        """Assign every group that is left."""
        sizes = np.asarray(self._counts.sum(axis=1)).ravel()
        for group in np.lexsort((self._place, -sizes)):
            if self.role[group] >= 0:
                continue
            row = slice(self._counts.indptr[group], self._counts.indptr[group + 1])
            labels, added = self._counts.indices[row], self._counts.data[row]
            over = self._have[:, labels] - self._wanted[:, labels]
            cost = ((2 * over + added) * added * self._scale[labels]).sum(axis=1)
            self._assign(int(group), min(used, key=lambda role: (cost[role], -role)))

    def _assign(self, group: int, role: int) -> None:
        row = slice(self._counts.indptr[group], self._counts.indptr[group + 1])
        self._have[role, self._counts.indices[row]] += self._counts.data[row]
        self.role[group] = role


def _wanted(
    labels: NDArray[np.int64], classes: int, shares: Mapping[str, float], own_test: bool
) -> NDArray[np.float64]:
    """How many images (3, C) of each class the roles are to have, as exactly as groups will never allow."""
    of_class = np.bincount(labels, minlength=classes).astype(np.float64)
    wanted = np.zeros((len(ROLES), classes))
    wanted[TEST] = 0.0 if own_test else shares["test"] * of_class
    wanted[VAL] = shares["val"] * (of_class - wanted[TEST])
    wanted[TRAIN] = of_class - wanted[TEST] - wanted[VAL]
    return wanted


def _check_own_test_whole(groups: Groups, own_test: NDArray[np.bool_]) -> None:
    both = np.intersect1d(groups.group_ids[own_test], groups.group_ids[~own_test])
    if len(both):
        listed = ", ".join(groups.named(int(group)) for group in both[:5]) + (", ..." if len(both) > 5 else "")
        raise UserError(
            f"{WHERE}: {len(both):,} group{'s' * (len(both) != 1)} with images in the set's own test split and "
            f"outside it ({listed}). Move those images to one side, or set split.group_by: null."
        )


def _too_few(
    label: int,
    size: int,
    labels: NDArray[np.int64],
    groups: Groups,
    free: Ids,
    used: Sequence[int],
    classes: Sequence[str] | None,
) -> str:
    listed = ", ".join(groups.named(int(group)) for group in np.unique(groups.group_ids[free[labels == label]]))
    has = f"{size} group{'s' * (size != 1)}"
    uses = "train, val and test" if TEST in used else "train and val"
    return (
        f"{WHERE}: class {find_class(label, classes)} has {has} ({listed}); each class needs at least {len(used)}, "
        f"one each in {uses}."
    )
