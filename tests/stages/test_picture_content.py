"""What the report says of the pictures: their numbers, masks, copies, and what is odd about their files."""

from typing import Any

from pipeline.data.prepared.prepared import Manifest
from pipeline.stages.report.picture_content import describe_pictures, picture_remarks, picture_rows

MANIFEST: Manifest = {
    "origin": "pictures of pets/",
    "licence": "yours",
    "images": 9,
    "image_size": [32, 48],
    "channels": 3,
    "has_masks": True,
    "skipped": {"cat/a.png": "the file is empty"},
}


def division(classes: int = 2) -> dict[str, Any]:
    """A split's report: class n has n + 1 training images and one test image."""
    counts = {f"c{n}": {"train": n + 1, "val": 0, "test": 1} for n in range(classes)}
    images = {role: sum(each[role] for each in counts.values()) for role in ("train", "val", "test")}
    copies = {"exact": {"test": 1, "val": 1}, "near": None}
    return {"images": images, "classes": counts, "masks": 7, "duplicates": copies, "remarks": ["20 groups stay whole"]}


def test_pictures_are_counted_by_class_and_role_and_of_many_classes_those_with_the_fewest_are_shown() -> None:
    first, second, total = picture_rows(division())
    assert first == {"class": "c0", "images": {"train": 1, "test": 1, "all": 2}}
    assert second["images"]["all"] == 3
    assert total == {"class": "all 2 classes", "images": {"train": 3, "test": 2, "all": 5}}
    *rows, total = picture_rows(division(100))
    assert [each["class"] for each in rows] == [f"c{n}" for n in range(20)]
    assert total["images"]["test"] == 100
    assert picture_rows({}) == []


def test_pictures_are_described_with_what_was_left_out_and_what_was_not_looked_for() -> None:
    words = dict(describe_pictures(MANIFEST, division()))
    assert words["from"] == "pictures of pets/ (licence: yours)"
    assert words["size"] == "32 x 48 pixels, 3 channels"
    assert words["masks"] == "7 for 9 pictures"
    assert words["broken files"] == "1 left out (see data/prepared/manifest.json)"
    assert words["exact copies"] == "2 pictures of test or val with copies in another role"
    assert words["near copies"].startswith("not looked for")
    none = {**division(), "duplicates": {"exact": {"test": 0, "val": 0}}}
    whole: Manifest = {**MANIFEST, "has_masks": False, "skipped": {}}
    words = dict(describe_pictures(whole, none))
    assert (words["masks"], words["broken files"], words["exact copies"]) == ("none", "none", "none in several roles")
    odd: Manifest = {
        **MANIFEST,
        "remarks": {"no object": {"files": 4, "first": ["1", "2", "3", "4"], "advice": "Draw one"}},
    }
    odd["original_labels"] = [3, 5]
    assert picture_remarks(odd, division()) == [
        "Labels: the set's own labels 3, 5 are numbered 0 to 1 here",
        "No object: 4 files (1, 2, 3, ...). Draw one (docs/own-images/decoding.md)",
        "Left out: cat/a.png: the file is empty",
        "20 groups stay whole",
    ]


def test_pictures_of_results_of_earlier_versions_are_described_as_far_as_is_known() -> None:
    assert set(dict(describe_pictures(MANIFEST, {}))) == {"from", "size", "broken files"}
    earlier = {name: each for name, each in division().items() if name not in ("masks", "remarks")}
    assert "masks" not in dict(describe_pictures(MANIFEST, earlier))
    assert picture_remarks(MANIFEST, earlier) == ["Left out: cat/a.png: the file is empty"]
