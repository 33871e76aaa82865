"""Assigns a role to each image at random: class by class, or group by group if images belong together."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array  # type: ignore[import-untyped, unused-ignore]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped, unused-ignore]

from pipeline.data.splits.groups import WHERE, Groups
from pipeline.errors import UserError

Ids = NDArray[np.int64]
"""Row numbers of the prepared arrays."""
Roles = NDArray[np.int8]
"""Positions in `ROLES`, by image."""

ROLES = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)


def fraction_to_count(fraction: float, count: int, *, leave: int) -> int:
    """Returns the number of images in a share: at least one, and leaving at least `leave` of them.

    Args:
        fraction: The share, in 0 .. 1.
        count: Number of images in all.
        leave: Number of images that stay outside of the share; it has priority.
    """
    return min(max(1, round(fraction * count)), count - leave)


def find_class(label: int, classes: Sequence[str] | None) -> str:
    """Returns the name of a class, or its label if there are no names."""
    return str(label) if classes is None else classes[label]


def draw_images(
    orders: Mapping[int, Ids], shares: Mapping[str, float], own_test: NDArray[np.bool_] | None, count: int
) -> Roles:
    """Returns the roles of images without groups, (count,): the first of each class are test, then val, then train.

    Args:
        orders: Ids of each class in random order, by label.
        shares: Share of all images for "test", and of the remaining ones for "val".
        own_test: Membership in the set's own test split, (count,) bool; None: test is drawn.
        count: Number of images.
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
    """Returns the roles of images whose groups stay whole, (N,), with each class in every role.

    First, every class gets one group into each role. Classes with the fewest groups come first, and the group
    whose size is nearest to the wanted number is taken. Then the remaining groups are assigned, large ones
    first. Each goes to the role that minimises the squared distance to the wanted numbers, summed over roles
    and classes and relative to the class size. Order and ties follow from the seed.

    Args:
        labels: (N,).
        groups: Group of each image.
        shares: Share of all images for "test", and of the remaining ones for "val".
        own_test: Membership in the set's own test split, (N,) bool; None: test is drawn.
        seed: Seed of the order of groups.
        classes: Names by label, for messages; None: labels are shown.

    Raises:
        UserError: If a group has images inside and outside of own_test, if a class has too few groups, or if
            it cannot be in every role because it shares its groups with other classes.
    """
    free = np.arange(len(labels)) if own_test is None else np.flatnonzero(~own_test)
    if own_test is not None:
        _check_own_test_whole(groups, own_test)
    used = [VAL, TRAIN] if own_test is not None else [TEST, VAL, TRAIN]
    wanted = _wanted(labels[free], shares, own_test is not None)
    assignment = Assignment(labels[free], groups.group_ids[free], wanted, seed)
    for label, size in assignment.sizes.items():
        if size < len(used):
            raise UserError(_too_few(label, size, labels[free], groups, free, used, classes))
    roles = np.full(len(labels), TEST, dtype=np.int8)
    roles[free] = assignment.assign(
        used,
        lambda label, role: (
            f"{WHERE}: class {find_class(label, classes)} has no group left for {ROLES[role]}: its "
            f"{assignment.sizes[label]} groups are all in other roles, where other classes need some of them. Make "
            "groups smaller, or give that class more groups."
        ),
    )
    return roles


def component_numbers(first: Ids, second: Ids, count: int) -> Ids:
    """Returns the number of each node's connected component, (count,).

    Args:
        first: Node at one end of each edge, (E,).
        second: Node at the other end, (E,).
        count: Number of nodes.
    """
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    numbers: Ids = connected_components(graph, directed=False)[1].astype(np.int64)
    return numbers


def union_clusters(one: Ids, other: Ids) -> Ids:
    """Returns clusters (N,) of images that are connected by equal numbers in one (N,) or the other (N,)."""
    offset = int(one.max(initial=-1)) + 1
    _, other = np.unique(other, return_inverse=True)
    size = offset + int(other.max(initial=-1)) + 1
    # Nodes are the numbers of both; each image is an edge.
    return component_numbers(one, offset + other, size)[one]


def move_duplicates_to_train(roles: Roles, clusters: Ids) -> Roles:
    """Returns the roles (N,) after moving every cluster (N,) that was in several roles to train as a whole."""
    lowest, highest = (np.full(clusters.max() + 1, start, dtype=np.int8) for start in (TEST, TRAIN))
    np.minimum.at(lowest, clusters, roles)
    np.maximum.at(highest, clusters, roles)
    return np.where((lowest != highest)[clusters], np.int8(TRAIN), roles)


class Assignment:
    """Assignment of groups to roles, or to folds.

    Args:
        labels: (n,).
        group_ids: Group of each image, (n,).
        wanted: Images of each class that each role is to have, (R, C).
        seed: Seed of the order of groups.

    Attributes:
        sizes: Number of groups by label.
    """

    def __init__(self, labels: NDArray[np.int64], group_ids: Ids, wanted: NDArray[np.float64], seed: int) -> None:
        _, self._of = np.unique(group_ids, return_inverse=True)
        counts = csr_array(coo_array((np.ones(len(labels), np.int64), (self._of, labels))))
        self.sizes = {int(label): len(np.unique(self._of[labels == label])) for label in np.unique(labels)}
        self._counts, self._by_class, self._wanted = counts, counts.tocsc(), wanted
        self._scale = 1.0 / np.maximum(wanted.sum(axis=0), 1.0) ** 2
        self._have = np.zeros_like(wanted)
        # The groups' places in a random order, which breaks ties.
        self._place = np.random.default_rng([seed, 0x6721]).permutation(counts.shape[0])
        self._role = np.full(counts.shape[0], -1, dtype=np.int8)  # -1: not assigned yet

    def assign(self, used: Sequence[int], refusal: Callable[[int, int], str]) -> Roles:
        """Returns the role of each image, (n,), once every class has a group in every role.

        Classes with the fewest groups come first. Then the remaining groups are assigned, large ones first.

        Args:
            used: Roles to assign.
            refusal: Returns the error message, given a label and the role that it cannot be in.

        Raises:
            UserError: If a class cannot be in a role.
        """
        for label in sorted(self.sizes, key=lambda label: (self.sizes[label], label)):
            for role in used:
                if not self._cover(label, role):
                    raise UserError(refusal(label, role))
        self._rest(used)
        return self._role[self._of]

    def _cover(self, label: int, role: int) -> bool:
        """Makes sure that a class is in a role, and returns whether this was possible.

        Returns:
            False if none of the class's groups is left for it.
        """
        if self._have[role, label]:
            return True
        column = slice(self._by_class.indptr[label], self._by_class.indptr[label + 1])
        groups, sizes = self._by_class.indices[column], self._by_class.data[column]
        left = self._role[groups] < 0
        groups, sizes = groups[left], sizes[left]
        if not len(groups):
            return False
        best = np.lexsort((self._place[groups], np.abs(sizes - self._wanted[role, label])))[0]
        self._assign(int(groups[best]), role)
        return True

    def _rest(self, used: Sequence[int]) -> None:
        """Assigns every remaining group to one of the roles in `used`."""
        sizes = np.asarray(self._counts.sum(axis=1)).ravel()
        for group in np.lexsort((self._place, -sizes)):
            if self._role[group] >= 0:
                continue
            row = slice(self._counts.indptr[group], self._counts.indptr[group + 1])
            labels, added = self._counts.indices[row], self._counts.data[row]
            over = self._have[:, labels] - self._wanted[:, labels]
            cost = ((2 * over + added) * added * self._scale[labels]).sum(axis=1)
            self._assign(int(group), min(used, key=lambda role: (cost[role], -role)))

    def _assign(self, group: int, role: int) -> None:
        row = slice(self._counts.indptr[group], self._counts.indptr[group + 1])
        self._have[role, self._counts.indices[row]] += self._counts.data[row]
        self._role[group] = role


def _wanted(labels: NDArray[np.int64], shares: Mapping[str, float], own_test: bool) -> NDArray[np.float64]:
    """Returns how many images of each class each role is to have, (3, C), as fractional numbers.

    Args:
        labels: (N,).
        shares: Share of all images for "test", and of the remaining ones for "val".
        own_test: Whether the set has its own test split, which is not among the labels.
    """
    of_class = np.bincount(labels).astype(np.float64)
    wanted = np.zeros((len(ROLES), len(of_class)))
    wanted[TEST] = 0.0 if own_test else shares["test"] * of_class
    wanted[VAL] = shares["val"] * (of_class - wanted[TEST])
    wanted[TRAIN] = of_class - wanted[TEST] - wanted[VAL]
    return wanted


def _check_own_test_whole(groups: Groups, own_test: NDArray[np.bool_]) -> None:
    """Checks that no group has images both inside and outside of the set's own test split."""
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
    """Returns the message about a class with too few groups.

    Args:
        label: The class.
        size: Number of its groups.
        labels: Labels of the images to divide, (n,).
        groups: Group of each image of the set.
        free: Ids of the images to divide, (n,).
        used: Roles that are assigned.
        classes: Names by label; None: labels are shown.
    """
    listed = ", ".join(groups.named(int(group)) for group in np.unique(groups.group_ids[free[labels == label]]))
    has = f"{size} group{'s' * (size != 1)}"
    uses = "train, val and test" if TEST in used else "train and val"
    return (
        f"{WHERE}: class {find_class(label, classes)} has {has} ({listed}); each class needs at least {len(used)}, "
        f"one each in {uses}."
    )
