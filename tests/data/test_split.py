"""Claims about splits: three roles that never mix, drawn class by class from the seed."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.splits.split import Split, make_split, read_split, write_split
from pipeline.errors import UserError


def labels(*counts: int) -> NDArray[np.int64]:
    """Labels of classes 0, 1, ... with so many images each, in an order without meaning."""
    ordered = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return np.random.default_rng(0).permutation(ordered)


def split(of: NDArray[np.int64], *, val_fraction: float = 0.2, test_fraction: float = 0.2, seed: int = 0) -> Split:
    return make_split(of, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)


@pytest.mark.parametrize("counts", [(100, 50, 10), (3, 3), (4,), (7, 1000)])
@pytest.mark.parametrize("seed", [0, 1])
def test_roles_are_disjoint_and_cover_every_image(counts: tuple[int, ...], seed: int) -> None:
    made = split(labels(*counts), seed=seed)
    together = np.concatenate([made.train, made.val, made.test])
    assert sorted(together.tolist()) == list(range(sum(counts)))
    for ids in (made.train, made.val, made.test):
        assert ids.dtype == np.int64
        assert (np.diff(ids) > 0).all()


def test_roles_hold_every_class_in_its_share() -> None:
    of = labels(100, 50, 10)
    made = split(of)
    # A fifth of all for test; then a fifth of the rest for val.
    assert np.bincount(of[made.test]).tolist() == [20, 10, 2]
    assert np.bincount(of[made.val]).tolist() == [16, 8, 2]
    assert np.bincount(of[made.train]).tolist() == [64, 32, 6]


@pytest.mark.parametrize(("val_fraction", "test_fraction"), [(0.001, 0.001), (0.999, 0.999), (0.5, 0.9)])
def test_every_role_keeps_an_image_of_every_class(val_fraction: float, test_fraction: float) -> None:
    of = labels(3, 5, 40)
    made = split(of, val_fraction=val_fraction, test_fraction=test_fraction)
    for ids in (made.train, made.val, made.test):
        assert np.bincount(of[ids], minlength=3).min() >= 1


def test_split_depends_on_the_seed_and_nothing_else() -> None:
    of = labels(100, 50)
    np.random.seed(0)
    first = split(of, seed=5)
    np.random.seed(1)
    assert split(of, seed=5).split_hash == first.split_hash
    assert split(of, seed=6).split_hash != first.split_hash


def test_test_images_do_not_depend_on_the_share_of_val() -> None:
    of = labels(100, 50)
    assert split(of, val_fraction=0.1).test.tolist() == split(of, val_fraction=0.4).test.tolist()


def test_images_of_a_role_are_not_the_first_ones() -> None:
    made = split(np.zeros(1000, dtype=np.int64))
    assert 400 < made.test.mean() < 600


@pytest.mark.parametrize(
    ("counts", "said"), [((10, 2), "class 1 has 2 images"), ((1, 10), "class 0 has 1 image;")], ids=["two", "one"]
)
def test_class_with_fewer_than_three_images_is_refused(counts: tuple[int, ...], said: str) -> None:
    with pytest.raises(UserError, match=f"{said}.*at least 3"):
        split(labels(*counts))


def test_written_split_is_read_back_as_it_was(tmp_path: Path) -> None:
    made = split(labels(20, 10))
    path = tmp_path / "data" / "split.json"
    write_split(made, path, data_hash="abc", seed=7)
    found = read_split(path, data_hash="abc")
    assert found.split_hash == made.split_hash
    for role in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(found, role), getattr(made, role))
    content = json.loads(path.read_text())
    assert content["seed"] == 7
    assert content["split_hash"] == made.split_hash
    assert [entry.name for entry in path.parent.iterdir()] == ["split.json"]


def test_split_of_other_data_is_refused(tmp_path: Path) -> None:
    write_split(split(labels(20, 10)), tmp_path / "split.json", data_hash="abc", seed=0)
    with pytest.raises(UserError, match="made of other data than data/prepared holds"):
        read_split(tmp_path / "split.json", data_hash="abd")


def test_split_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split\.json: not there\. Run `dvc repro split` first"):
        read_split(tmp_path / "split.json", data_hash="abc")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1, 2]",
        "{}",
        '{"train": [0], "val": [1], "data_hash": "abc"}',
        '{"train": [0], "val": [1], "test": ["two"], "data_hash": "abc"}',
        '{"train": [0], "val": [1], "test": [2]}',
    ],
)
def test_broken_split_is_told_with_the_command_that_mends_it(tmp_path: Path, content: Any) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(UserError, match=r"not a split .*Run `dvc repro --single-item --force split`"):
        read_split(tmp_path / "split.json", data_hash="abc")


def own_test(of: NDArray[np.int64], every: int = 4) -> NDArray[np.bool_]:
    """Every fourth image is the set's own test image."""
    return np.arange(len(of)) % every == 0


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("seed", [0, 3])
def test_smaller_shares_of_train_lie_in_larger_ones_role_by_role(own: bool, seed: int) -> None:
    of = labels(100, 50, 12)
    test = own_test(of) if own else None
    splits = [
        make_split(of, val_fraction=0.2, test_fraction=0.2, seed=seed, train_fraction=share, own_test=test)
        for share in (0.01, 0.1, 0.25, 0.9, 1.0)
    ]
    for smaller, larger in pairwise(splits):
        assert set(smaller.train) <= set(larger.train)
        assert set(smaller.val) <= set(larger.val)
        assert smaller.test.tolist() == larger.test.tolist()
        assert len(smaller.train) < len(larger.train)


def test_share_of_train_is_taken_of_every_class_in_train_and_in_val() -> None:
    of = labels(1000, 500, 10)
    whole = split(of)
    tenth = make_split(of, val_fraction=0.2, test_fraction=0.2, seed=0, train_fraction=0.1)
    assert np.bincount(of[whole.train]).tolist() == [640, 320, 6]
    assert np.bincount(of[tenth.train]).tolist() == [64, 32, 1]
    assert np.bincount(of[tenth.val]).tolist() == [16, 8, 1]


def test_whole_share_is_the_split_without_one() -> None:
    of = labels(100, 50)
    whole = make_split(of, val_fraction=0.2, test_fraction=0.2, seed=0, train_fraction=1.0)
    assert whole.split_hash == split(of).split_hash


@pytest.mark.parametrize("counts", [(100, 50), (3, 3), (3, 60)])
def test_own_test_split_is_the_test_role_and_nothing_else_is(counts: tuple[int, ...]) -> None:
    of = labels(*counts)
    test = own_test(of, every=len(of) - 1)
    made = make_split(of, val_fraction=0.2, test_fraction=0.9, seed=0, own_test=test)
    assert made.test.tolist() == np.flatnonzero(test).tolist()
    assert sorted([*made.train, *made.val, *made.test]) == list(range(len(of)))
    for ids in (made.train, made.val):
        assert np.bincount(of[ids], minlength=len(counts)).min() >= 1


def test_test_classes_that_train_never_has_are_named() -> None:
    of = np.array([0, 0, 1, 1, 2])
    test = np.array([False, False, False, False, True])
    with pytest.raises(UserError, match="the test set has classes that the training images do not have: bird"):
        make_split(of, val_fraction=0.2, test_fraction=0.2, seed=0, own_test=test, classes=("cat", "dog", "bird"))


def test_class_with_one_image_outside_the_own_test_split_is_named() -> None:
    of = np.array([0, 0, 0, 1, 1])
    test = np.array([True, False, False, False, True])
    with pytest.raises(UserError, match="class dog has 1 image outside the test set; each class needs at least 2"):
        make_split(of, val_fraction=0.2, test_fraction=0.2, seed=0, own_test=test, classes=("cat", "dog"))


def test_split_of_the_digits_stays_what_it_was() -> None:
    """Searches are found again by its hash."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    made = split(np.asarray(load_digits().target, dtype=np.int64))
    assert made.split_hash == "b0521bae3a792d75077a9acbf135ec64fe394a869d98c8a5f495d20c01e89dfe"
