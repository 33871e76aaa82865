"""Claims about what names alone say: classes, the set's own test split, masks; and sets that cannot be used."""

from collections.abc import Iterable

import numpy as np
import pytest

from pipeline.data.archive import Listing
from pipeline.data.sources.image_folder import Layout, arrange, describe_doubtful
from pipeline.errors import UserError


def laid_out(names: Iterable[str], folders: Iterable[str] = ()) -> Layout:
    files = list(names)
    parents = ["/".join(name.split("/")[:end]) for name in files for end in range(1, len(name.split("/")))]
    return arrange(
        Listing(tuple((name, 1) for name in files), tuple(dict.fromkeys([*folders, *parents])), "id"), "root"
    )


def many(*folders: str, count: int = 3) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(count)]


def test_folders_are_classes_in_the_order_of_their_names() -> None:
    found = laid_out(many("dog", "cat"))
    assert found.classes == ("cat", "dog")
    assert found.names == tuple(many("cat", "dog"))
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test is None
    assert found.masks == {}


def test_train_and_test_folders_are_the_sets_own_split() -> None:
    found = laid_out(many("test/dog", "test/cat", "train/cat", "train/dog", count=2))
    assert found.classes == ("cat", "dog")
    assert found.names == tuple(many("train/cat", "train/dog", "test/cat", "test/dog", count=2))
    assert found.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert found.test is not None
    assert found.test.tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("wrapper", ["photos", "photos/of/mine"])
@pytest.mark.parametrize("inner", [many("cat", "dog"), many("train/cat", "train/dog", "test/cat")])
def test_folders_around_it_all_are_looked_through(wrapper: str, inner: list[str]) -> None:
    bare, wrapped = laid_out(inner), laid_out([f"{wrapper}/{name}" for name in inner])
    assert wrapped.classes == bare.classes
    np.testing.assert_array_equal(wrapped.labels, bare.labels)
    assert [name.removeprefix(wrapper + "/") for name in wrapped.names] == list(bare.names)


def test_order_of_the_listing_does_not_matter() -> None:
    names = many("cat", "dog", count=20)
    mixed = [names[index] for index in np.random.default_rng(0).permutation(len(names))]
    assert laid_out(mixed).names == laid_out(names).names


@pytest.mark.parametrize("base", ["", "photos/"])
def test_masks_belong_to_the_picture_of_the_same_path(base: str) -> None:
    names = many(f"{base}cat", f"{base}dog")
    found = laid_out([*names, f"{base}masks/cat/1.png", f"{base}masks/dog/2.PNG"])
    assert found.classes == ("cat", "dog")
    assert found.masks == {f"{base}masks/cat/1.png": 1, f"{base}masks/dog/2.PNG": 5}


def test_masks_of_a_set_with_its_own_test_split_have_its_folders() -> None:
    names = many("train/cat", "train/dog", "test/cat", count=2)
    found = laid_out([*names, "masks/train/cat/0.png", "masks/test/cat/1.png"])
    assert found.masks == {"masks/train/cat/0.png": 0, "masks/test/cat/1.png": 5}


def test_folder_named_masks_with_pictures_in_it_is_a_class() -> None:
    names = [*many("hats"), *(f"masks/venice {number}.jpg" for number in range(3))]
    assert laid_out(names).classes == ("hats", "masks")


@pytest.mark.parametrize("suffix", ["png", "JPG"])
def test_folder_named_masks_that_may_hold_the_pictures_masks_is_no_class_without_a_word(suffix: str) -> None:
    with pytest.raises(UserError, match=r"masks/ has pictures of the same names .*: 2 \(masks/1\..*another name"):
        laid_out([*many("cat", "dog"), *(f"masks/{number}.{suffix}" for number in (1, 2, 7))])


def test_one_stray_file_in_masks_does_not_disable_them() -> None:
    masks = ["masks/cat/1.png", "masks/dog/2.png"]
    assert set(laid_out([*many("cat", "dog"), *masks, "masks/README.txt"]).masks) == set(masks)
    with pytest.raises(UserError, match=r"masks that belong to no picture: 1 \(masks/overview\.png\)"):
        laid_out([*many("cat", "dog"), *masks, "masks/overview.png"])


@pytest.mark.parametrize("inner", [("images/cat", "images/dog"), ("train/cat", "train/dog")])
def test_what_lies_beside_a_wrapper_is_taken_or_refused(inner: tuple[str, str]) -> None:
    assert laid_out([*many(*inner), "boxes.csv", "README.txt"]).boxes == "boxes.csv"
    with pytest.raises(UserError, match=r"in no class folder: 1 \(loose\.png\)"):
        laid_out([*many(*inner), "loose.png"])
    wrapper = inner[0].partition("/")[0]
    with pytest.raises(UserError, match=rf"has {wrapper}/boxes\.csv and boxes\.csv, each of which"):
        laid_out([*many(*inner), "boxes.csv", f"{wrapper}/boxes.csv"])


def test_ss_is_no_other_letter_case_of_sz() -> None:
    assert len(laid_out(many("ma\u00dfe", "masse")).classes) == 2


def test_loose_files_that_are_no_pictures_are_left_alone() -> None:
    assert laid_out([*many("cat", "dog"), "README.txt", "LICENCE"]).classes == ("cat", "dog")


def test_class_names_are_printable_and_composed() -> None:
    found = laid_out(many("caf\udce9", "e\u0301t\u00e9"))
    assert found.classes == ("caf\\xe9", "\u00e9t\u00e9")


@pytest.mark.parametrize(
    ("names", "folders", "said"),
    [
        ([], [], "holds no class folders"),
        (["README.txt"], [], "holds no class folders"),
        (["1.jpg", "2.JPG"], [], r"that lie in no class folder: 2 \(1\.jpg, 2\.JPG\)"),
        ([*many("cat", "dog"), "9.jpg"], [], "that lie in no class folder: 1"),
        (many("cat"), [], r"one class only \(cat\)\. At least two .* set prepare\.root to the folder that holds all"),
        ([*many("cat"), "dog/1.jpg"], [], r"classes: dog has 1\. Each class needs 3 or more.*or remove the folders"),
        (many("cat", "dog"), ["bird"], r"classes: bird has no picture\. Each class needs 3"),
        (
            [*many("train/cat", "test/cat", "test/dog"), "train/dog/1.jpg"],
            [],
            r"classes in train: dog has 1\. Each class needs 2",
        ),
        (many("train/cat", "train/dog", "test/cat", "test/bird"), [], "classes that train does not have: bird"),
        (many("train/cat", "train/dog", "test/cat", "extra/cat"), [], "has extra beside train and test"),
        (many("train/cat", "train/dog", "val/cat"), [], "Validation pictures are drawn from train"),
        ([*many("train/cat", "train/dog", "test/cat"), "test/9.jpg"], [], r"test/9\.jpg: in no class folder"),
        ([*many("cat", "dog"), "cat/old/1.jpg"], [], "cat/old: a folder in a class folder"),
        ([*many("cat", "dog"), "masks/cat/7.png", "masks/bird/1.png"], [], "masks that belong to no picture: 2"),
        ([*many("cat", "dog"), "masks/cat/1.jpg"], [], "masks that belong to no picture: 1"),
        ([*many("cat", "dog"), "cat/1.gif", "masks/cat/1.png"], [], "belongs to more than one picture"),
    ],
)
def test_set_that_cannot_be_used_is_refused_in_words(names: list[str], folders: list[str], said: str) -> None:
    with pytest.raises(UserError, match=f"root: .*{said}") as refusal:
        laid_out(names, folders)
    assert len(str(refusal.value).splitlines()) <= 3


@pytest.mark.parametrize("folder", ["mask", "Mask", "maks", "trimaps"])
def test_folder_that_looks_like_a_misspelt_folder_of_masks_is_told(folder: str) -> None:
    with pytest.raises(UserError, match=rf"a folder in a class folder.*If {folder}/ holds masks, name it masks"):
        laid_out([*many("cat", "dog"), f"{folder}/cat/1.png"])
    (said,) = doubts([*many("cat", "dog"), *(f"{folder}/{number}.png" for number in range(3))])
    assert said.startswith(f"{folder}/ is read as a class. Does it hold masks of the other pictures ({folder}/0.png, ")
    assert doubts([*many("cat", "dog"), *(f"{folder}/hat{number}.png" for number in range(3))]) == ()
    assert doubts(many("cat", "dog", "black")) == ()


def doubts(names: Iterable[str], empty: Iterable[str] = ()) -> tuple[str, ...]:
    names, empty = list(names), set(empty)
    folders = tuple(dict.fromkeys(name.rpartition("/")[0] for name in names))
    listing = Listing(tuple((name, 0 if name in empty else 1) for name in names), folders, "id")
    return describe_doubtful(listing, arrange(listing, "root"))


def test_files_that_are_no_pictures_by_name_or_size_are_told() -> None:
    usual = ["cat/hash", "cat/v1.0 final", "cat/a.JPG", "cat/b.jfif", "cat/c.mpo", *many("dog")]
    assert doubts(usual) == ()
    said = doubts([*usual, "cat/empty.jpg", "dog/notes.txt"], empty=["cat/empty.jpg"])
    assert said[0] == (
        "2 files of these, most likely no pictures: cat/empty.jpg (empty), dog/notes.txt (no picture by its name)"
    )
    assert "prepare.skip_broken: true" in said[1]


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), (NFC, NFD), ("cat", "cat "), ("cat", "cat."), ("İx", "i̇x")])
def test_class_folders_that_are_one_name_to_a_person_are_refused(one: str, other: str) -> None:
    with pytest.raises(UserError, match=r"class folders whose names differ only in letter case.*: '.*' and '"):
        laid_out(many(one, other, "dog"))
    with pytest.raises(UserError, match="differ only in letter case"):
        laid_out([f"train/{name}" for name in many(one, other)] + many("test/dog"))


def test_letters_are_classes_of_their_own() -> None:
    assert laid_out(many("A", "a")).classes == ("A", "a")


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), (NFC, NFD), ("cat", "cat ")])
def test_a_class_may_be_spelled_otherwise_in_test(one: str, other: str) -> None:
    found = laid_out(many(f"Train/{one}", "Train/dog", f"TEST/{other}"))
    assert found.classes == tuple(sorted([one if one != NFD else NFC, "dog"]))
    assert (
        found.labels.tolist()
        == [found.classes.index(name) for name in sorted([one, "dog"]) for _ in range(3)]
        + [found.classes.index(one)] * 3
    )


def test_masks_and_boxes_are_found_in_another_spelling() -> None:
    found = laid_out([*many("cat", NFC), "Masks/CAT/1.PNG", f"Masks/{NFD}/2.png"])
    assert {mask: found.names[row] for mask, row in found.masks.items()} == {
        "Masks/CAT/1.PNG": "cat/1.jpg",
        f"Masks/{NFD}/2.png": f"{NFC}/2.jpg",
    }
    assert laid_out([*many("cat", "dog"), "Boxes.CSV"]).boxes == "Boxes.CSV"
    with pytest.raises(UserError, match=r"masks/cat/1\.png: another mask of cat/1\.jpg"):
        laid_out([*many("cat", "dog"), "masks/CAT/1.png", "masks/cat/1.png"])


def test_a_spelling_that_leaves_a_doubt_is_none() -> None:
    with pytest.raises(UserError, match="masks that belong to no picture"):
        laid_out([*many("cat", "dog"), "cat/a.jpg", "cat/A.jpg", "cat/b.jpg", "masks/CAT/A.png"])
