"""One configuration trained by hand: it leaves nothing, or a checkpoint that goes on and that others begin from."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.prepared_digits import write_digits

from pipeline.commands.train import train_once
from pipeline.config import Params
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.splits.split import read_split
from pipeline.errors import UserError
from pipeline.inputs.resolved_weights import resolve_weights
from pipeline.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "base.device": "cpu",
    "model.kwargs": {"patch_size": 3, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "model.drop_path": 0.1,
    "train.epochs": 3,
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    write_digits(tmp_path / "data", train_fraction=0.1)
    (tmp_path / "params.yaml").touch()
    return Workspace(tmp_path, tmp_path)


def train(workspace: Workspace, save: Path | None, **changed: Any) -> list[str]:
    values = SMALL | {name.replace("__", "."): value for name, value in changed.items()}
    lines = list(train_once(workspace, values, save))
    return [line for line in lines if not line.startswith(("used: ", "training: ", "METHOD/value: "))]


def test_what_is_trained_on_what_is_told_before_the_first_epoch(workspace: Workspace) -> None:
    values = SMALL | {"train.epochs": 1, "regularizer.spatial_entropy.weight": 0.1}
    lines = list(train_once(workspace, values))
    split = read_split(workspace.split, data_hash=open_prepared(workspace.prepared).data_hash)
    assert re.fullmatch(
        rf"training: vit_tiny_patch16_224 \([\d,]+ parameters\) on {len(split.train):,} images of digits, scored on "
        rf"{len(split.val):,} others \(val\); the {len(split.test):,} test images are not used; 1 epoch on cpu, "
        r"\d+ threads?",
        lines[0],
    )
    assert [line.split()[0] for line in lines[1:3]] == ["METHOD/value:", "epoch"]
    assert "val/spatial_entropy/value" in lines[2]


def test_without_a_folder_nothing_is_left(workspace: Workspace) -> None:
    before = sorted(workspace.root.rglob("*"))
    assert [line.split()[1] for line in train(workspace, None)] == ["1/3", "2/3", "3/3"]
    assert sorted(workspace.root.rglob("*")) == before


def test_interrupted_it_goes_on_to_the_very_weights_that_it_has_uninterrupted(workspace: Workspace) -> None:
    whole, broken = workspace.root / "whole", workspace.root / "new" / "broken"
    train(workspace, whole)
    epochs = train_once(workspace, SMALL, broken)
    while not next(epochs).startswith("epoch 2/3"):
        pass
    epochs.close()
    said = train(workspace, broken)
    assert said[0].endswith("broken: has epoch 2 of 3")
    assert [line.split()[1] for line in said if line.startswith("epoch")] == ["3/3"]
    first, second = load_file(whole / "weights.safetensors"), load_file(broken / "weights.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(line.startswith("epoch") for line in train(workspace, broken))  # there is nothing left to train


def test_what_it_leaves_is_what_a_network_can_begin_from(workspace: Workspace) -> None:
    train(workspace, workspace.root / "mine", train__epochs=1)
    begun = Params().with_values(SMALL | {"model.pretrained": "mine"}, where="test")
    (weights,) = resolve_weights(workspace, [("test", begun)]).values()
    assert weights.network is not None
    assert weights.network["num_classes"] == 10
    (line,) = train(workspace, None, model__pretrained="mine", train__epochs=1)
    (fresh,) = train(workspace, None, train__epochs=1)

    def loss(line: str) -> float:
        found = re.search(r"train/loss (\S+)", line)
        assert found is not None
        return float(found[1])

    assert loss(line) < loss(fresh)


def test_a_folder_that_has_another_training_or_something_else_is_refused(workspace: Workspace) -> None:
    mine = workspace.root / "mine"
    train(workspace, mine, train__epochs=1)
    kept = (mine / "weights.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"^--save: .*mine: has the checkpoint of another training"):
        train(workspace, mine, train__epochs=1, train__lr=0.5)
    assert (mine / "weights.safetensors").read_bytes() == kept
    (workspace.root / "photos").mkdir()
    (workspace.root / "photos" / "cat.jpg").touch()
    for taken in ("photos", "params.yaml"):
        with pytest.raises(UserError, match=r"contains something other than a checkpoint; name a new folder"):
            train(workspace, workspace.root / taken)
    for cleaned in ("models/mine", "results", "state/mine", "data/mine"):
        with pytest.raises(UserError, match=r"which the pipeline writes and cleans"):
            train(workspace, workspace.root / cleaned)
