"""Claims about splits of images that belong together, and of copies that go into one role."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.splits.assignment import move_duplicates_to_train, union_clusters
from pipeline.data.splits.groups import Groups
from pipeline.data.splits.split import Split, make_split
from pipeline.errors import UserError

Ints = NDArray[np.int64]


def grouped(of: Ints | list[int]) -> Groups:
    numbers = np.asarray(of)
    return Groups(numbers, tuple(f"g{number}" for number in range(int(numbers.max()) + 1)))


def split(labels: Ints, of: Ints | list[int], **settings: object) -> Split:
    values = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": 0, "groups": grouped(of)} | settings
    return make_split(np.asarray(labels), **values)  # type: ignore[arg-type]


def roles_of(made: Split, count: int) -> Ints:
    roles = np.full(count, -1)
    for number, ids in enumerate((made.train, made.val, made.test)):
        assert (roles[ids] == -1).all()
        roles[ids] = number
    return roles


def random_groups(seed: int, *, mixed: bool) -> tuple[Ints, Ints]:
    """Labels and groups of uneven sizes: four groups a class at least; some over two classes, if mixed."""
    rng = np.random.default_rng([15, seed])
    labels, of = [], []
    for group in range(int(rng.integers(16, 60))):
        size = int(rng.integers(1, 12)) if rng.random() < 0.8 else int(rng.integers(10, 50))
        label = group % 4
        other = (label + 1) % 4 if mixed and group > 16 and rng.random() < 0.3 else label
        labels += [label if rng.random() < 0.7 else other for _ in range(size)]
        of += [group] * size
    order = rng.permutation(len(labels))
    return np.array(labels)[order], np.array(of)[order]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("first", [0, 25, 50])
def test_groups_never_straddle_and_every_role_has_every_class(mixed: bool, own: bool, first: int) -> None:
    for seed in range(first, first + 25):
        labels, of = random_groups(seed, mixed=mixed)
        test = np.isin(of, [0, 5, 10, 15]) if own else None
        made = split(labels, of, own_test=test, seed=seed)
        roles = roles_of(made, len(labels))
        assert (roles >= 0).all()
        for group in np.unique(of):
            assert len(set(roles[of == group])) == 1
        for role in (0, 1) if own else (0, 1, 2):
            assert set(labels[roles == role]) == set(labels[~test] if test is not None else labels)
        if test is not None:
            assert (made.test == np.flatnonzero(test)).all()


def test_shares_are_met_class_by_class_as_well_as_groups_allow() -> None:
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(600), rng.integers(1, 6, 600))
    labels = (of % 3).astype(np.int64)
    labels[of % 3 == 2] = np.where(of[of % 3 == 2] % 9 == 2, 2, 1)  # class 2 is a third of the size
    roles = roles_of(split(labels, of), len(labels))
    for label in range(3):
        count = np.bincount(roles[labels == label], minlength=3)
        np.testing.assert_allclose(count, np.array([0.64, 0.16, 0.2]) * count.sum(), atol=2)


def test_images_on_their_own_are_split_as_exactly_as_without_groups() -> None:
    labels = np.repeat(np.arange(3), [100, 50, 10])
    counts = [np.bincount(labels[ids]).tolist() for ids in split(labels, np.arange(160)).ids_by_role().values()]
    assert counts == [[64, 32, 6], [16, 8, 2], [20, 10, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_few_groups_go_where_their_size_fits_and_large_ones_first(seed: int) -> None:
    sizes = [60, 20, 16, 2, 1, 1]
    roles = roles_of(split(np.zeros(100, dtype=np.int64), np.repeat(np.arange(6), sizes), seed=seed), 100)
    assert np.bincount(roles).tolist() == [64, 16, 20]
    sizes = [10, 10, 10, 10] + 60 * [1]
    roles = roles_of(split(np.zeros(100, dtype=np.int64), np.repeat(np.arange(64), sizes), seed=seed), 100)
    assert np.bincount(roles).tolist() == [64, 16, 20]


def test_rare_class_is_shared_out_as_carefully_as_a_common_one_in_the_same_groups() -> None:
    of, labels = np.repeat(np.arange(100), 11), np.tile([0] * 10 + [1], 100)
    labels[(of >= 20) & (labels == 1)] = 0  # one rare image in each of the first twenty
    for seed in range(10):
        rare = np.bincount(roles_of(split(labels, of, seed=seed), len(of))[labels == 1])
        np.testing.assert_allclose(rare, [12.8, 3.2, 4.0], atol=1.3)


def test_large_groups_of_few_leave_something_for_every_role() -> None:
    labels = np.repeat(np.array([0, 0, 0, 1, 1, 1]), [90, 1, 1, 10, 10, 10])
    of = np.repeat(np.arange(6), [90, 1, 1, 10, 10, 10])
    made = split(labels, of)
    for ids in (made.train, made.val, made.test):
        assert set(labels[ids]) == {0, 1}
    assert set(made.train) > set(range(90))


def test_grouped_split_depends_on_the_seed_and_nothing_else() -> None:
    labels, of = random_groups(3, mixed=True)
    first = split(labels, of, seed=4)
    np.random.seed(0)
    assert split(labels, of, seed=4).split_hash == first.split_hash
    assert split(labels, of, seed=5).split_hash != first.split_hash


def test_smaller_shares_of_a_grouped_split_lie_in_larger_ones() -> None:
    labels, of = random_groups(1, mixed=False)
    tenth, half, whole = (split(labels, of, train_fraction=share) for share in (0.1, 0.5, 1.0))
    for smaller, larger in ((tenth, half), (half, whole)):
        assert set(smaller.train) < set(larger.train)
        assert set(smaller.val) <= set(larger.val)
        assert smaller.test.tolist() == larger.test.tolist()
    assert 0.4 < len(half.train) / len(whole.train) < 0.6


def test_class_with_too_few_groups_is_named_with_them() -> None:
    labels, of = np.array([0] * 9 + [1] * 9), [0, 1, 2] * 3 + [3] * 9
    with pytest.raises(UserError, match=r"split\.group_by: class dog has 1 group \(g3\); each class needs at least 3, one each in train, val and test"):  # fmt: skip
        split(labels, of, classes=("cat", "dog"))
    test = np.array([True] * 3 + [False] * 15)
    with pytest.raises(UserError, match=r"class cat has 1 group \(g1\); each class needs at least 2, one each in train and val"):  # fmt: skip
        split(labels, [0] * 3 + [1] * 6 + [3, 4, 5] * 3, own_test=test, classes=("cat", "dog"))


def test_groups_in_the_own_test_split_and_outside_it_are_named() -> None:
    labels, of = np.array([0, 1] * 10), list(range(10)) * 2
    test = np.arange(20) < 2
    with pytest.raises(UserError, match=r"2 groups with images in the set's own test split and outside it \(g0, g1\)"):
        split(labels, of, own_test=test)


def test_class_whose_groups_are_needed_elsewhere_is_named() -> None:
    # Every group of the class 1 holds images of the class 0, whose only groups these are: fine, until one more class has
    # to share them in another way.
    labels = np.array([0, 1, 0, 2, 1, 2])
    of = [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match=r"class 0 has 2 groups"):
        split(np.repeat(labels, 3), np.repeat(of, 3))
    labels = np.array([0, 1, 2, 0, 1, 3, 0, 2, 3, 1, 2, 3])
    of = np.repeat(np.arange(4), 3)
    with pytest.raises(
        UserError, match=r"class \d has no group left for (train|val|test): its \d groups are all in other roles"
    ):
        split(np.repeat(labels, 2), np.repeat(of, 2))


def test_clusters_are_joined_over_either_kind_of_tie() -> None:
    one, other = np.array([0, 0, 1, 2, 3]), np.array([9, 4, 4, 7, 7])
    found = union_clusters(one, other)
    assert (found[:, None] == found[None]).tolist() == (np.array([0, 0, 0, 1, 1])[:, None] == np.array([0, 0, 0, 1, 1])[None]).tolist()  # fmt: skip


def test_clusters_in_several_roles_go_into_train_and_no_others_move() -> None:
    roles = np.array([2, 1, 0, 2, 2, 1, 1, 0], dtype=np.int8)
    clusters = np.array([0, 0, 1, 1, 2, 3, 3, 4])
    assert move_duplicates_to_train(roles, clusters).tolist() == [0, 0, 0, 0, 2, 1, 1, 0]


def test_copies_in_several_roles_are_moved_into_train_alone() -> None:
    labels = np.arange(200) % 2
    plain = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=0)
    copies = np.arange(200)
    copies[plain.test[3]] = copies[plain.train[5]]
    copies[plain.test[4]] = copies[plain.val[6]]
    copies[plain.test[5]] = copies[plain.test[6]]
    moved = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=0, copies=copies)
    gone = {*plain.test[[3, 4]], plain.val[6]}
    assert set(moved.train) == set(plain.train) | gone
    assert set(moved.test) == set(plain.test) - gone
    assert set(moved.val) == set(plain.val) - gone
    none = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=0, copies=np.arange(200))
    assert none.split_hash == plain.split_hash


def test_moved_copies_keep_smaller_shares_in_larger_ones_and_groups_whole() -> None:
    of = np.arange(360) // 3
    labels = of % 2
    copies = np.arange(360)
    copies[np.random.default_rng(0).permutation(360)[:6]] = 0
    half, whole = (split(labels, of, copies=copies, train_fraction=share) for share in (0.5, 1.0))
    assert set(half.train) < set(whole.train)
    roles = roles_of(whole, len(labels))
    for group in np.unique(of):
        assert len(set(roles[of == group])) == 1
    assert set(roles[copies == 0]) == {0}


def test_copies_of_the_own_test_split_leave_it() -> None:
    labels, test = np.arange(40) % 2, np.arange(40) >= 30
    copies = np.arange(40)
    copies[35] = 0
    made = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=0, own_test=test, copies=copies)
    assert 35 in made.train
    assert made.test.tolist() == [row for row in range(30, 40) if row != 35]


@pytest.mark.parametrize(("role", "own"), [("test", False), ("val", False), ("test", True)])
def test_class_that_a_role_would_lose_with_its_copies_is_named(role: str, own: bool) -> None:
    labels = np.arange(40) % 2
    test = np.arange(40) >= 30 if own else None
    settings = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": 0, "own_test": test, "classes": ("cat", "dog")}
    plain = make_split(labels, **settings)  # type: ignore[arg-type]
    copies = np.arange(40)
    lost = getattr(plain, role)
    copies[lost[labels[lost] == 0] if not own else lost] = plain.train[0]
    copies[plain.train[0]] = plain.train[0]
    with pytest.raises(UserError, match=rf"split\.duplicates: move: would leave no {role} images of class cat"):
        make_split(labels, copies=copies, **settings)  # type: ignore[arg-type]


def test_sixty_thousand_images_in_groups_are_split_in_seconds() -> None:
    rng = np.random.default_rng(0)
    of = rng.integers(0, 20_000, 60_000)
    labels = (of * 7919 % 100).astype(np.int64)
    labels[::50] = rng.integers(0, 100, 1200)
    copies = np.where(rng.random(60_000) < 0.01, rng.integers(0, 60_000, 60_000), np.arange(60_000))
    started = time.perf_counter()
    made = split(labels, of, copies=copies)
    # Takes about a second; comparing every group with every other takes minutes.
    assert time.perf_counter() - started < 10
    assert len(np.intersect1d(of[made.train], of[made.test])) == 0
