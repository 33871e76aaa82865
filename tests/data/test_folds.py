"""Claims about folds: each image is a test image once, and nothing that belongs together is apart in any of them."""

from typing import Any

import numpy as np
import pytest
from data.test_grouped_splits import grouped, random_groups
from numpy.typing import NDArray

from pipeline.config import fold_seed
from pipeline.data.splits.folds import fold_ids, fold_numbers, make_folds
from pipeline.data.splits.split import Split, make_split, read_split, write_split
from pipeline.errors import UserError

Ints = NDArray[np.int64]


def folds(labels: Any, count: int, **settings: Any) -> Split:
    given = {"holdout": 0.0, "val_fraction": 0.2, "seed": 0} | settings
    seeds = [fold_seed(given["seed"], number + 1) for number in range(count)]
    return make_folds(np.asarray(labels), fold_seeds=seeds, **given)


def check_partition(made: Split, count: int, *, used: int | None = None) -> None:
    """All ids but the holdout are tested once; of each fold, train and val are the others, and nothing is in two roles."""
    kept = set(made.test.tolist())
    tested = np.concatenate([fold.test for fold in made.folds])
    assert sorted(tested.tolist()) == sorted(set(range(count)) - kept)
    for fold in made.folds:
        roles = [*fold.train, *fold.val, *fold.test]
        assert len(roles) == len(set(roles))
        assert not set(roles) & kept
        if used is None:
            assert len(roles) == count - len(kept)
        for ids in (fold.train, fold.val, fold.test):
            assert (np.diff(ids) > 0).all()


@pytest.mark.parametrize("count", [2, 3, 5, 10])
@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_every_image_is_tested_once_and_classes_are_dealt_out_evenly(count: int, holdout: float) -> None:
    rng = np.random.default_rng([3, count])
    for seed in range(8):
        labels = rng.integers(0, 4, 220)
        made = folds(labels, count, holdout=holdout, seed=seed)
        check_partition(made, 220)
        assert (len(made.test) > 0) == (holdout > 0)
        assert sorted([*made.train, *made.val, *made.test]) == list(range(220))
        by_class = np.array([np.bincount(labels[fold.test], minlength=4) for fold in made.folds])
        assert (np.ptp(by_class, axis=0) <= 1).all()
        assert np.ptp(by_class.sum(axis=1)) <= 1
        for fold in made.folds:
            inside = np.bincount(labels[fold.val], minlength=4)
            outside = np.bincount(labels[np.concatenate([fold.train, fold.val])], minlength=4)
            np.testing.assert_allclose(inside, 0.2 * outside, atol=1)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("holdout", [0.0, 0.15])
def test_groups_and_copies_are_whole_in_folds_and_inside_of_them(mixed: bool, holdout: float) -> None:
    for seed in range(12):
        labels, of = random_groups(seed, mixed=mixed)
        rng = np.random.default_rng([4, seed])
        # Most images have no copy; some have one in the same class, in whatever group.
        copies = np.arange(len(labels))
        for row in rng.choice(len(labels), 4, replace=False):
            copies[row] = copies[rng.choice(np.flatnonzero(labels == labels[row]))]
        for count in (2, 3):
            try:
                made = folds(labels, count, holdout=holdout, seed=seed, groups=grouped(of), copies=copies)
            except UserError:
                continue  # too few groups are left of a class once copies have joined them
            check_partition(made, len(labels))
            for split in (made, *made.folds):
                role = np.full(len(labels), -1)
                for number, ids in enumerate((split.train, split.val, split.test)):
                    role[ids] = number
                for together in (of, copies):
                    for one in np.unique(together):
                        assert len(set(role[together == one])) == 1
                for ids in (split.train, split.val):
                    assert set(labels[ids]) == set(labels)
            for fold in made.folds:
                assert set(labels[fold.test]) == set(labels)


def test_groups_are_dealt_out_as_evenly_as_they_allow() -> None:
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(600), rng.integers(1, 6, 600))
    labels = (of % 3).astype(np.int64)
    made = folds(labels, 5, groups=grouped(of))
    by_class = np.array([np.bincount(labels[fold.test], minlength=3) for fold in made.folds])
    assert (np.ptp(by_class, axis=0) <= 2).all()


def test_copies_without_groups_stay_together_and_images_without_copies_are_split_as_if_none_were_looked_for() -> None:
    labels = np.repeat(np.arange(2), 40)
    plain = folds(labels, 4)
    again = folds(labels, 4, copies=np.arange(80))
    assert [fold.split_hash for fold in again.folds] == [fold.split_hash for fold in plain.folds]
    copies = np.arange(80)
    copies[[3, 17, 25]] = 3
    numbers = fold_numbers(folds(labels, 4, copies=copies))
    assert len(set(numbers[[3, 17, 25]])) == 1


def test_folds_do_not_change_with_how_many_there_are_of_other_seeds_and_are_the_same_again() -> None:
    labels = np.repeat(np.arange(3), 30)
    one, again, other = (folds(labels, 5, seed=seed) for seed in (0, 0, 1))
    assert [fold.split_hash for fold in one.folds] == [fold.split_hash for fold in again.folds]
    assert {fold.split_hash for fold in one.folds}.isdisjoint(fold.split_hash for fold in other.folds)
    assert len({fold_seed(7, number) for number in range(6)}) == 6
    assert fold_seed(7, 0) == 7


def test_share_of_train_is_taken_of_every_fold_and_test_stays_whole() -> None:
    labels = np.repeat(np.arange(2), 100)
    tenth, whole = folds(labels, 5, train_fraction=0.1), folds(labels, 5)
    check_partition(tenth, 200, used=0)
    for small, large in zip(tenth.folds, whole.folds, strict=True):
        assert small.test.tolist() == large.test.tolist()
        assert set(small.train) < set(large.train)
        assert abs(len(small.train) - 0.1 * len(large.train)) <= 2


def test_fold_of_every_image_stands_beside_its_id() -> None:
    labels = np.repeat(np.arange(3), [30, 20, 11])
    made = folds(labels, 3, holdout=0.2)
    ids, numbers = fold_ids(made), fold_numbers(made)
    assert ids.tolist() == sorted(set(range(61)) - set(made.test.tolist()))
    for number, fold in enumerate(made.folds):
        assert ids[numbers == number].tolist() == fold.test.tolist()


@pytest.mark.parametrize(("size", "count"), [(4, 5), (2, 2), (3, 2), (9, 10)])
def test_more_folds_than_the_rarest_class_can_be_in_are_refused(size: int, count: int) -> None:
    labels = np.repeat(np.arange(2), [50, size])
    with pytest.raises(UserError, match=rf"evaluate\.folds: given {count}; class owl has {size} images, and each class needs one in every fold, and two outside"):  # fmt: skip
        folds(labels, count, classes=("cat", "owl"))


@pytest.mark.parametrize(("size", "count"), [(5, 5), (4, 2), (3, 3), (10, 10)])
def test_as_many_folds_as_the_rarest_class_can_be_in_are_made(size: int, count: int) -> None:
    labels = np.repeat(np.arange(2), [50, size])
    made = folds(labels, count)
    check_partition(made, 50 + size)
    for fold in made.folds:
        for ids in (fold.train, fold.val, fold.test):
            assert set(labels[ids]) == {0, 1}


def test_holdout_that_leaves_too_few_of_a_class_is_named() -> None:
    labels = np.repeat(np.arange(2), [50, 6])
    with pytest.raises(UserError, match="class 1 has 4 images outside of the holdout, and each class needs one"):
        folds(labels, 5, holdout=0.3)


def test_groups_that_are_too_few_for_the_folds_are_named() -> None:
    labels, of = np.repeat(np.arange(2), 30), np.arange(60) // 10
    with pytest.raises(UserError, match=r"given 4; class 0 has 3 groups of images that stay together .* more groups"):
        folds(labels, 4, groups=grouped(of))


def test_groups_of_several_classes_that_cannot_be_in_every_fold_are_named() -> None:
    # Of classes 0 and 1 the group that is nearest to a third comes into the first fold; both have class 2 in it, which
    # then has one group for the two other folds.
    of, labels = [], []
    for group, held in enumerate([[0] * 4 + [2], [0] * 5, [0] * 3, [1] * 4 + [2], [1] * 5, [1] * 3, [2] * 2]):
        of += [group] * len(held)
        labels += held
    with pytest.raises(
        UserError,
        match=r"evaluate\.folds: 3: class 2 cannot be in every fold: for one fold no group is left, since its 3 groups",
    ):
        folds(labels, 3, groups=grouped(of))


def test_fold_whose_other_images_cannot_be_split_is_named() -> None:
    # Both classes share two groups, so that four groups of a class are not four for train and val of either.
    of = np.repeat(np.arange(5), 4)
    labels = np.zeros(20, np.int64)
    labels[of == 1] = [0, 1, 1, 1]
    labels[of == 2] = 1
    labels[of == 3] = [0, 0, 1, 1]
    labels[of == 4] = [0, 0, 0, 1]
    with pytest.raises(
        UserError, match=r"evaluate\.folds: 2: the images outside fold 2 cannot be split: .*class 0 has 1"
    ):
        folds(labels, 2, groups=grouped(of))


def test_split_with_folds_is_written_and_read_back_and_one_without_is_as_it_was(tmp_path: Any) -> None:
    labels = np.repeat(np.arange(3), 20)
    made = folds(labels, 3, holdout=0.2)
    write_split(made, tmp_path / "split.json", data_hash="d", seed=0)
    found = read_split(tmp_path / "split.json", data_hash="d")
    assert found.split_hash == made.split_hash
    assert [fold.split_hash for fold in found.folds] == [fold.split_hash for fold in made.folds]
    assert found.folds[0].folds == ()
    plain = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=0)
    write_split(plain, tmp_path / "plain.json", data_hash="d", seed=0)
    assert "folds" not in (tmp_path / "plain.json").read_text()
    assert read_split(tmp_path / "plain.json", data_hash="d").folds == ()
    (tmp_path / "plain.json").write_text((tmp_path / "split.json").read_text().replace('"folds": [{', '"folds": [{"trian": 1, '))  # fmt: skip
    assert read_split(tmp_path / "plain.json", data_hash="d").folds
    (tmp_path / "plain.json").write_text((tmp_path / "split.json").read_text().replace('"folds": [', '"folds": [7, '))
    with pytest.raises(UserError, match="not a split"):
        read_split(tmp_path / "plain.json", data_hash="d")
