"""Claims about the parts of the procedure: each fold has its own split, seeds and folder."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Params, fold_seed
from pipeline.data.splits.folds import make_folds
from pipeline.data.splits.split import make_split, read_split, write_split
from pipeline.errors import UserError
from pipeline.inputs.procedure import folds_hash, read_parts, split_parts
from pipeline.workspace import Workspace

LABELS = np.repeat(np.arange(3), 20)


def write(workspace: Workspace, *, folds: int, seed: int = 0) -> Params:
    """data/split.json with so many folds, 0: none; returns the parameters."""
    params = Params().with_values({"base.seed": seed}, where="a test")
    seeds = [fold_seed(seed, number + 1) for number in range(folds)]
    made = make_split(LABELS, val_fraction=0.2, test_fraction=0.2, seed=seed)
    if folds:
        made = make_folds(LABELS, seed=seed, fold_seeds=seeds, holdout=0.0, val_fraction=0.2)
    write_split(made, workspace.split, data_hash="d" * 64, seed=seed)
    return params


def test_without_folds_there_is_one_part_that_is_what_the_parameters_say(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path)
    params = write(workspace, folds=0)
    (part,) = read_parts(workspace, params, data_hash="d" * 64)
    assert (part.number, part.folds, part.name, part.params) == (0, 0, "", params)
    assert part.path == workspace.split
    assert part.folder(workspace.results / "search") == workspace.results / "search"
    assert not (workspace.state / "folds").exists()


def test_every_fold_has_a_split_file_seeds_and_folders_of_its_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path)
    params = write(workspace, folds=3, seed=7)
    parts = read_parts(workspace, params, data_hash="d" * 64)
    assert [part.name for part in parts] == ["all images", "fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]
    assert [part.params.base.seed for part in parts] == [7, 10_007, 20_007, 30_007]
    assert parts[2].folder(workspace.models) == workspace.models / "folds" / "2"
    assert len({part.path for part in parts}) == 4
    for part in parts:
        read = read_split(part.path, data_hash="d" * 64)
        assert read.split_hash == part.split.split_hash
    for part in parts[1:]:
        assert part.params.model_dump() == params.with_values({"base.seed": part.params.base.seed}, where="").model_dump()  # fmt: skip
    assert parts[0].split.test.tolist() == []
    before = {part.path: part.path.stat().st_mtime_ns for part in parts}
    assert {part.path: part.path.stat().st_mtime_ns for part in read_parts(workspace, params, data_hash="d" * 64)} == before  # fmt: skip


def test_files_of_other_data_or_folds_have_other_names(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path)
    params = write(workspace, folds=3)
    split = read_split(workspace.split, data_hash="d" * 64)
    paths = {part.path for hashed in "de" for part in split_parts(workspace, params, split, data_hash=hashed * 64)[1:]}
    assert len(paths) == 6
    three = read_parts(workspace, params, data_hash="d" * 64)
    five = read_parts(workspace, write(workspace, folds=5), data_hash="d" * 64)
    assert folds_hash(three) != folds_hash(five)
    assert not {part.path for part in three[1:]} & {part.path for part in five[1:]}


def test_seeds_beyond_what_base_seed_may_be_are_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path)
    params = write(workspace, folds=2, seed=2**31 - 5)
    with pytest.raises(UserError, match=r"evaluate\.folds: the seeds of fold 1: base\.seed"):
        read_parts(workspace, params, data_hash="d" * 64)
