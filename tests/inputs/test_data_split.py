"""Claims about the split stage: what its parameters make of a prepared set, and what it tells of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import Params, load_params
from pipeline.data.prepared.encoded import EncodedRows
from pipeline.data.prepared.prepared import Prepared, open_prepared
from pipeline.data.splits.duplicates import Duplicates, find_duplicates
from pipeline.data.splits.split import Split, make_split, read_split
from pipeline.errors import UserError
from pipeline.inputs import data_split
from pipeline.inputs.data_split import check_group_by, compute_split, describe_faults, prepare_split
from pipeline.stages.split.__main__ import main
from pipeline.stages.split.split_report import _count_masks as count_masks
from pipeline.workspace import Workspace

COUNT = 120


def photos(side: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (COUNT, side, side, 3)).astype(np.uint8)


def make_checkout(
    root: Path, split: dict[str, Any], images: NDArray[np.uint8], *, named: bool = True, labels: Any = None
) -> Workspace:
    """A checkout with a prepared set of two classes, four photos of each of thirty animals."""
    workspace = Workspace(root, root)
    workspace.prepared.mkdir(parents=True)
    # Of two classes; each animal is of one.
    of = np.arange(COUNT) // 4 % 2 if labels is None else labels
    np.save(workspace.prepared / "images.npy", images)
    np.save(workspace.prepared / "labels.npy", of.astype(np.int64))
    names = ["cat", "dog", "owl"][: int(of.max()) + 1]
    manifest = {"format": 1, "data_hash": "d", "classes": names, "sha256": {"images": "", "labels": ""}}
    (workspace.prepared / "manifest.json").write_text(json.dumps(manifest))
    if named:
        files = [f"set/{names[label]}/a{row // 4}_{row}.png" for row, label in enumerate(of)]
        (workspace.prepared / "files.json").write_text(json.dumps(files))
    prepare = {"dataset": "image_folder", "root": "set"}
    workspace.params.write_text(json.dumps({"prepare": prepare, "split": split}))
    return workspace


def run(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], dict[str, Any]]:
    main(workspace)
    return capsys.readouterr().out.splitlines(), json.loads((workspace.root / "data/split_report.json").read_text())


def params_of(workspace: Workspace) -> Params:
    return load_params(workspace.params)


def test_ordinary_set_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = make_checkout(tmp_path, {}, photos())
    lines, report = run(workspace, capsys)
    assert lines == ["train 76, val 20, test 24 images"]
    assert report["classes"]["dog"] == {"train": 38, "val": 10, "test": 12}
    assert report["group_by"] is report["masks"] is None
    assert report["remarks"] == []
    assert describe_faults(workspace) == ""
    assert report["duplicates"]["exact"] == {
        **{"test": 0, "val": 0, "different_labels": 0},
        **{"pairs": [], "different_pairs": []},
    }
    plain = make_split(open_prepared(workspace.prepared).labels, val_fraction=0.2, test_fraction=0.2, seed=0)
    assert read_split(workspace.split, data_hash="d").split_hash == plain.split_hash


def test_pattern_keeps_animals_whole_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = make_checkout(tmp_path, {"group_by": r"/(a\d+)_"}, photos())
    lines, report = run(workspace, capsys)
    assert "30 groups stay whole" in lines
    assert report["group_by"] == {"given": r"/(a\d+)_", "sha256": None, "groups": 30, "images_on_their_own": 0, "unused_entries": []}  # fmt: skip
    made = read_split(workspace.split, data_hash="d")
    animals = [set((ids // 4).tolist()) for ids in (made.train, made.val, made.test)]
    assert not animals[0] & animals[1] | animals[0] & animals[2] | animals[1] & animals[2]
    assert (
        compute_split(workspace, params_of(workspace), open_prepared(workspace.prepared)).split_hash == made.split_hash
    )


def write_table(workspace: Workspace, extra: str = "") -> None:
    names = json.loads((workspace.prepared / "files.json").read_text())
    rows = [f"{name},{'' if row >= 112 else row // 8}" for row, name in enumerate(names)]
    (workspace.root / "animals.csv").write_text("\n".join(["path,group", *rows]) + "\n" + extra)


def test_table_keeps_groups_whole_and_tells_of_what_it_names_besides(tmp_path: Path, capsys: Any) -> None:
    workspace = make_checkout(tmp_path, {"group_by": "animals.csv"}, photos())
    write_table(workspace, "set/gone.png,1\n")
    lines, report = run(workspace, capsys)
    assert lines[1:3] == ["14 groups stay whole, 8 images on their own", "animals.csv names 1 image that the set does not have"]  # fmt: skip
    assert report["group_by"]["unused_entries"] == ["set/gone.png"]
    made = read_split(workspace.split, data_hash="d")
    assert not set((made.train // 8).tolist()) & set((made.test[made.test < 112] // 8).tolist())


def test_table_that_changes_after_the_split_is_noticed(tmp_path: Path, capsys: Any) -> None:
    workspace = make_checkout(tmp_path, {"group_by": "animals.csv"}, photos())
    with pytest.raises(UserError, match=r"split\.group_by: animals\.csv: no such file"):
        check_group_by(workspace, params_of(workspace))
    write_table(workspace)
    check_group_by(workspace, params_of(workspace))
    run(workspace, capsys)
    check_group_by(workspace, params_of(workspace))
    write_table(workspace, "set/gone.png,1\n")
    with pytest.raises(UserError, match=r"animals\.csv: has changed since data/split\.json was made with it.*\n.*dvc repro --single-item --force split"):  # fmt: skip
        check_group_by(workspace, params_of(workspace))
    run(workspace, capsys)
    check_group_by(workspace, params_of(workspace))


@pytest.mark.parametrize(
    ("group_by", "said"),
    [("animal", "has no group"), ("(", "not a regular expression"), ("g.json", "no such file")],
)
def test_check_names_what_is_wrong_with_group_by_before_anything_is_prepared(tmp_path: Path, group_by: str, said: str) -> None:  # fmt: skip
    workspace = make_checkout(tmp_path, {"group_by": group_by}, photos())
    with pytest.raises(UserError, match=said):
        check_group_by(workspace, params_of(workspace))


def test_sets_without_file_names_cannot_be_grouped(tmp_path: Path) -> None:
    workspace = make_checkout(tmp_path, {"group_by": r"(\d)"}, photos(), named=False)
    with pytest.raises(UserError, match="the images of set have no file names to group them by"):
        main(workspace)
    assert not workspace.split.exists()
    digits = params_of(workspace).with_values({"prepare.dataset": "digits", "prepare.root": None}, where="here")
    with pytest.raises(UserError, match="the images of digits have no file names"):
        check_group_by(workspace, digits)
    check_group_by(workspace, digits.with_values({"split.group_by": None}, where="here"))


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}'])
def test_broken_file_names_are_told_with_the_command_that_mends_them(tmp_path: Path, content: str) -> None:
    workspace = make_checkout(tmp_path, {}, photos())
    (workspace.prepared / "files.json").write_text(content)
    with pytest.raises(UserError, match=r"files\.json: .*Run `dvc repro --single-item --force prepare`"):
        main(workspace)


def with_copies(workspace_root: Path, action: str) -> tuple[Workspace, Any]:
    """Two exact copies between test and train, one near one between val and train, one pair within train."""
    images = np.random.default_rng(1).integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    labels = np.arange(COUNT) // 4 % 2
    made = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=0)
    roles = {role: np.array(rows) for role, rows in made.ids_by_role().items()}
    # Those of one class come first, so that copies have one class.
    ids = {role: rows[np.argsort(labels[rows], kind="stable")] for role, rows in roles.items()}
    plain = Split(**ids)
    images[plain.test[:2]] = images[plain.train[:2]]
    images[plain.val[0]] = images[plain.train[2]]
    images[plain.val[0], 0, 0, 0] ^= 1
    images[plain.train[4]] = images[plain.train[3]]
    return make_checkout(workspace_root, {"duplicates": action}, images), plain


def test_copies_in_several_roles_are_told_and_kept(tmp_path: Path, capsys: Any) -> None:
    workspace, plain = with_copies(tmp_path, "report")
    lines, report = run(workspace, capsys)
    names = json.loads((workspace.prepared / "files.json").read_text())
    exact, near = lines[1:]
    pairs = [sorted([plain.train[i], plain.test[i]]) for i in (0, 1)]
    first = min(pairs)
    assert report["remarks"] == lines[1:]
    assert describe_faults(workspace) == (
        "The pictures: 2 images of test or val with exact copies in another role, 1 image of test or val with near "
        "copies in another role."
    )
    manifest = workspace.prepared / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"skipped": {"a.png": "empty"}}))
    assert describe_faults(workspace).startswith("The pictures: 1 broken file left out, 2 images of test")
    role = {row: "train" if row in plain.train else "test" for row in first}
    assert exact == (
        f"2 test images with exact copies in train or val ({names[first[0]]} ({role[first[0]]}) = {names[first[1]]} "
        f"({role[first[1]]}), ...; see data/split_report.json)"
    )
    assert near.startswith("1 val image with near copies in train (")
    assert [sorted(names.index(name) for name, _ in pair) for pair in report["duplicates"]["exact"]["pairs"]] == sorted(pairs)  # fmt: skip
    assert report["duplicates"]["near"]["val"] == 1
    assert read_split(workspace.split, data_hash="d").test.tolist() == sorted(plain.test)


@pytest.mark.parametrize("encoded", [False, True])
def test_masks_that_are_undecided_all_over_do_not_count(tmp_path: Path, encoded: bool) -> None:
    masks = np.full((3, 2, 2), 255, dtype=np.uint8)
    masks[1, 0, 0] = 0
    rows: Any = masks
    if encoded:
        np.save(tmp_path / "masks.index.npy", np.array([[0, 0], [0, 5], [5, 0]]))
        (tmp_path / "masks.bin").write_bytes(b"a PNG")
        rows = EncodedRows(tmp_path, "masks", (2, 2))
    assert count_masks(Prepared(masks, np.zeros(3, dtype=np.int64), rows, {})) == 1


def test_results_without_a_report_of_the_split_or_a_prepared_set_have_no_faults(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path)
    assert describe_faults(workspace) == ""
    workspace.split.parent.mkdir()
    for damaged in ("{", "[]"):
        (tmp_path / "data/split_report.json").write_text(damaged)
        assert describe_faults(workspace) == ""


def test_copies_in_several_roles_are_moved_into_train(tmp_path: Path, capsys: Any) -> None:
    workspace, plain = with_copies(tmp_path, "move")
    lines, report = run(workspace, capsys)
    assert lines == ["train 79, val 19, test 22 images", "3 images moved into train, because they, or images of their group, have copies in another role"]  # fmt: skip
    made = read_split(workspace.split, data_hash="d")
    assert set(made.train) == {*plain.train, *plain.test[:2], plain.val[0]}
    assert report["duplicates"]["exact"]["test"] == report["duplicates"]["near"]["val"] == 0
    assert (
        compute_split(workspace, params_of(workspace), open_prepared(workspace.prepared)).split_hash == made.split_hash
    )


def test_number_of_moved_images_does_not_depend_on_the_share_of_train(tmp_path: Path) -> None:
    workspace, _ = with_copies(tmp_path, "move")
    params = params_of(workspace).with_values({"split.train_fraction": 0.5}, where="here")
    division = prepare_split(workspace, params, open_prepared(workspace.prepared))
    assert division.moved == 3
    assert len(division.split.train) == 39


def test_copies_are_looked_for_once_for_data_and_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, _ = with_copies(tmp_path, "move")
    prepared, looked = open_prepared(workspace.prepared), []

    def find(images: NDArray[np.uint8], distance: int) -> Duplicates:
        looked.append(distance)
        return find_duplicates(images, distance)

    monkeypatch.setattr(data_split, "find_duplicates", find)
    first = prepare_split(workspace, params_of(workspace), prepared).split.split_hash
    assert compute_split(workspace, params_of(workspace), prepared).split_hash == first
    assert looked == [4]
    compute_split(workspace, params_of(workspace).with_values({"split.duplicate_distance": 3}, where="here"), prepared)
    other = dataclasses.replace(prepared, manifest=dict(prepared.manifest) | {"data_hash": "e"})
    compute_split(workspace, params_of(workspace), other)
    (kept,) = (workspace.state / "split").iterdir()
    kept.write_bytes(kept.read_bytes()[:20])
    assert compute_split(workspace, params_of(workspace), other).split_hash == first
    assert looked == [4, 3, 4, 4]


def test_copies_in_several_roles_are_refused_by_name(tmp_path: Path) -> None:
    workspace, plain = with_copies(tmp_path, "refuse")
    names = json.loads((workspace.prepared / "files.json").read_text())
    with pytest.raises(UserError) as refused:
        main(workspace)
    lines = str(refused.value).splitlines()
    assert lines[0] == "params.yaml: split.duplicates: refuse: 3 images of test or val with copies in another role:"
    for name in (names[plain.test[0]], names[plain.train[1]], names[plain.val[0]]):
        assert any(name in line for line in lines[1:4])
    assert [line.endswith(", nearly") for line in lines[1:4]] == [False, False, True]
    assert "split.duplicates: move" in lines[4]
    assert not workspace.split.exists()


def test_many_refused_copies_are_named_in_a_few_lines(tmp_path: Path) -> None:
    images = photos()
    images[:] = images[0]
    workspace = make_checkout(tmp_path, {"duplicates": "refuse"}, images, named=False)
    with pytest.raises(UserError) as refused:
        main(workspace)
    lines = str(refused.value).splitlines()
    assert len(lines) == 8
    assert lines[0].endswith("44 images of test or val with copies in another role:")
    assert lines[1].startswith("  image 0 (")
    assert "more pairs" in lines[6]


def test_refusing_lets_a_set_without_copies_pass(tmp_path: Path, capsys: Any) -> None:
    lines, _ = run(make_checkout(tmp_path, {"duplicates": "refuse"}, photos(8)), capsys)
    assert lines == ["train 76, val 20, test 24 images"]


def test_ignored_copies_are_not_looked_for(tmp_path: Path, capsys: Any) -> None:
    workspace, _ = with_copies(tmp_path, "ignore")
    lines, report = run(workspace, capsys)
    assert lines == ["train 76, val 20, test 24 images"]
    assert report["duplicates"] == {"action": "ignore", "distance": 4}


def test_near_copies_of_small_pictures_are_not_looked_for_and_it_is_said_in_the_report(tmp_path: Path, capsys: Any) -> None:  # fmt: skip
    _, report = run(make_checkout(tmp_path, {}, photos(16)), capsys)
    assert report["duplicates"]["near"] is None


def test_copies_between_val_and_test_are_told_and_those_of_unused_images_are_not(tmp_path: Path, capsys: Any) -> None:
    images, labels = photos(8), np.arange(COUNT) // 4 % 2
    half = make_split(labels, val_fraction=0.2, test_fraction=0.2, seed=0, train_fraction=0.5)
    unused = np.setdiff1d(np.arange(COUNT), np.concatenate([half.train, half.val, half.test]))
    images[half.val[0]] = images[half.test[0]]
    images[unused[0]] = images[half.test[1]]
    _, report = run(make_checkout(tmp_path, {"train_fraction": 0.5}, images), capsys)
    exact = report["duplicates"]["exact"]
    assert (exact["test"], exact["val"]) == (1, 0)
    assert [sorted(role for _, role in pair) for pair in exact["pairs"]] == [["test", "val"]]


def test_copies_with_different_labels_are_counted(tmp_path: Path, capsys: Any) -> None:
    images = photos(8)
    images[4] = images[0]  # the first animal is a cat, the second a dog
    lines, report = run(make_checkout(tmp_path, {}, images), capsys)
    assert report["duplicates"]["exact"]["different_labels"] == 1
    assert report["duplicates"]["exact"]["different_pairs"] == [["set/cat/a0_0.png", "set/dog/a1_4.png"]]
    pair = "set/cat/a0_0.png = set/dog/a1_4.png"
    said = f"1 image with an exact copy that has another class ({pair}; see data/split_report.json)"
    assert said in lines


def test_imbalance_and_small_classes_are_told(tmp_path: Path, capsys: Any) -> None:
    labels = np.repeat([0, 1, 2], [90, 20, 10])
    lines, report = run(make_checkout(tmp_path, {}, photos(8), labels=labels), capsys)
    assert lines[1:] == [
        "imbalanced: cat has 90 images (75.0 %), owl 10 (8.3 %), dog 20 (16.7 %)",
        "2 classes with fewer than 5 val images (dog 3, owl 2)",
        "2 classes with fewer than 5 test images (dog 4, owl 2)",
    ]
    assert report["classes"]["owl"] == {"train": 6, "val": 2, "test": 2}


def set_folds(workspace: Workspace, **evaluate: Any) -> None:
    content = json.loads(workspace.params.read_text())
    workspace.params.write_text(json.dumps(content | {"evaluate": evaluate}))


def test_folds_are_told_and_written_and_are_what_the_parameters_give_again(tmp_path: Path, capsys: Any) -> None:
    workspace = make_checkout(tmp_path, {}, photos())
    set_folds(workspace, folds=5)
    lines, report = run(workspace, capsys)
    assert lines == ["train 96, val 24, test 0 images", "5 folds of 24 test images, each trained and validated on the others"]  # fmt: skip
    assert report["folds"][0] == {"train": 76, "val": 20, "test": 24, "test_by_class": {"cat": 12, "dog": 12}}
    made = read_split(workspace.split, data_hash="d")
    assert sorted(np.concatenate([fold.test for fold in made.folds]).tolist()) == list(range(COUNT))
    again = compute_split(workspace, params_of(workspace), open_prepared(workspace.prepared))
    assert again.split_hash == made.split_hash
    assert [fold.split_hash for fold in again.folds] == [fold.split_hash for fold in made.folds]


def test_rare_class_of_folds_and_the_holdout_are_told(tmp_path: Path, capsys: Any) -> None:
    labels = (np.arange(COUNT) >= COUNT - 20).astype(np.int64)
    workspace = make_checkout(tmp_path, {}, photos(), labels=labels)
    set_folds(workspace, folds=5, holdout=0.25)
    lines, report = run(workspace, capsys)
    assert lines[0] == "train 72, val 18, test 30 images"
    assert "5 folds of 18 test images, each trained and validated on the others" in lines
    assert "1 class with fewer than 5 test images in a fold (dog 3)" in lines
    assert "1 class with fewer than 5 val images (dog 3)" in lines
    assert report["images"]["test"] == 30


@pytest.mark.parametrize("action", ["report", "move", "refuse"])
def test_copies_are_in_one_fold_and_in_one_role_of_every_fold(tmp_path: Path, capsys: Any, action: str) -> None:
    workspace, _ = with_copies(tmp_path, action)
    set_folds(workspace, folds=3)
    _, report = run(workspace, capsys)
    prepared = open_prepared(workspace.prepared)
    clusters = find_duplicates(prepared.images, 4).clusters(COUNT)
    assert len(set(clusters.tolist())) == COUNT - 4
    made = read_split(workspace.split, data_hash="d")
    for split in (made, *made.folds):
        for ids in (split.train, split.val, split.test):
            assert not set(clusters[ids].tolist()) & set(clusters[np.setdiff1d(np.arange(COUNT), ids)].tolist())
    assert [report["duplicates"][kind][role] for kind in ("exact", "near") for role in ("val", "test")] == [0] * 4


def test_copies_that_are_ignored_are_not_looked_for_with_folds_either(tmp_path: Path, monkeypatch: Any) -> None:
    workspace, _ = with_copies(tmp_path, "ignore")
    set_folds(workspace, folds=3)
    monkeypatch.setattr(data_split, "find_duplicates", None)
    assert prepare_split(workspace, params_of(workspace), open_prepared(workspace.prepared)).copies is None


def test_folds_of_a_set_with_a_test_split_of_its_own_are_refused(tmp_path: Path) -> None:
    workspace = make_checkout(tmp_path, {}, photos())
    np.save(workspace.prepared / "test.npy", np.arange(COUNT) % 4 == 0)
    set_folds(workspace, folds=5)
    prepared = dataclasses.replace(open_prepared(workspace.prepared), test=np.arange(COUNT) % 4 == 0)
    with pytest.raises(UserError, match=r"evaluate\.folds: given 5; set has a test split of its own\. .* its results could no longer be compared"):  # fmt: skip
        prepare_split(workspace, params_of(workspace), prepared)


def test_holdout_without_folds_is_refused(tmp_path: Path) -> None:
    workspace = make_checkout(tmp_path, {}, photos())
    set_folds(workspace, holdout=0.2)
    with pytest.raises(UserError, match=r"evaluate\.holdout: given 0\.2, and evaluate\.folds is null"):
        data_split.check_folds(params_of(workspace), has_test=False)
