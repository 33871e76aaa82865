"""Claims about rare classes before a search: what is said of them, and which weights are refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.picture_sets import pictures, write_folder
from support.search_state import make_workspace

from pipeline.config import Params
from pipeline.data.sources.source_config import Preview
from pipeline.errors import UserError
from pipeline.preflight.class_balance import check_class_weights, describe_balance
from pipeline.preflight.plan import Plan, make_plan
from pipeline.tune.space import SearchSpace
from pipeline.workspace import Workspace

RARE = Preview(images=130, classes=("cat", "dog", "owl"), channels=3, class_counts=(90, 30, 4), test_images=6)
EVEN = replace(RARE, class_counts=(42, 42, 40))
LR = {"train.lr": {"type": "float", "low": 0.1, "high": 1.0}}
SPACE = SearchSpace("space.yaml", LR, {"baseline": {}})
WEIGHTS, SAMPLING = "train.class_weights", "train.sampling"
BOTH = {
    WEIGHTS: {"type": "categorical", "choices": [None, "balanced"]},
    SAMPLING: {"type": "categorical", "choices": ["shuffle", "balanced"]},
}


def params(values: dict[str, Any] | None = None) -> Params:
    return Params().with_values(values or {}, where="test")


def said(values: dict[str, Any] | None = None, source: Preview = RARE, space: SearchSpace = SPACE) -> list[str]:
    return list(describe_balance(params(values), space, source))


FOUND = "imbalanced: cat has 90 images (72.6 %), owl 4 (3.2 %), dog 30 (24.2 %); "


def test_imbalance_is_told_in_one_line_with_both_parameters() -> None:
    (line,) = said()
    assert line.startswith(FOUND + "train.class_weights: balanced has rare classes count as much as the others")
    assert "train.sampling: balanced shows them as often (docs/own-images/rare-classes.md)" in line
    assert said(source=EVEN) == []
    assert said(source=replace(RARE, class_counts=None)) == []  # yet to be fetched


def test_what_is_done_about_it_already_is_told_instead() -> None:
    assert said({WEIGHTS: {"owl": 5.0}}) == [FOUND + "params.yaml sets train.class_weights"]
    assert said({SAMPLING: "balanced"}) == [FOUND + "params.yaml sets train.sampling"]
    varied = SearchSpace("space.yaml", BOTH, {})
    both = said({SAMPLING: "balanced"}, space=SearchSpace("space.yaml", {WEIGHTS: BOTH[WEIGHTS]}, {}))
    assert both == [FOUND + "params.yaml sets train.sampling, space.yaml varies train.class_weights"]
    assert said(space=varied) == [FOUND + "space.yaml varies train.class_weights and train.sampling"]


def test_class_weights_that_change_nothing_are_told() -> None:
    both = {WEIGHTS: "balanced", SAMPLING: "balanced"}
    nothing = (
        "train.class_weights: balanced changes nothing if train.sampling is balanced too, which already shows all classes "
        "equally often"
    )
    assert said(both) == [FOUND + "params.yaml sets train.class_weights and train.sampling", nothing]
    assert said(both, EVEN) == [nothing]


def test_plan_has_the_line(planned: Callable[..., Plan]) -> None:
    store = SimpleNamespace(shown="sqlite:///mlflow.db")
    assert f"\n          {FOUND}" in planned(source=RARE, store=store).describe()
    assert "imbalanced" not in planned(source=EVEN, store=store).describe()


def test_weights_of_unknown_classes_are_told_with_who_gives_them_and_the_classes(tmp_path: Path) -> None:
    space = SearchSpace(
        "space.yaml",
        {WEIGHTS: {"type": "categorical", "choices": [None, "balanced", {"fox": 2.0}]}},
        {"baseline": {}, "heavy": {WEIGHTS: {"cow": 2.0}}},
    )
    workspace = Workspace(tmp_path, tmp_path)
    with pytest.raises(UserError) as refused:
        check_class_weights(workspace, params({WEIGHTS: {"bird": 2.0, "cat": 1.0}}), space, RARE)
    assert str(refused.value).splitlines() == [
        "params.yaml: train.class_weights: no class 'bird'; the classes are cat, dog, owl",
        "space.yaml: controls.heavy: train.class_weights: no class 'cow'; the classes are cat, dog, owl",
        "space.yaml: train.class_weights: no class 'fox'; the classes are cat, dog, owl",
    ]
    check_class_weights(workspace, params({WEIGHTS: {"owl": 2.0}}), SPACE, RARE)
    # Of a set that is yet to be fetched, the names are not known.
    check_class_weights(workspace, params({WEIGHTS: {"bird": 2.0}}), SPACE, replace(RARE, class_counts=None))


def test_weights_of_a_class_that_training_lacks_are_told_once_the_data_are_split(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    source = Preview(images=20, classes=("a", "b"), channels=1, class_counts=(10, 10))
    asked = params({WEIGHTS: {"b": 2.0}})
    check_class_weights(workspace, asked, SPACE, source)
    split: dict[str, Any] = {"train": list(range(8)), "val": [8, 9, 10], "test": list(range(11, 20))}
    workspace.split.write_text(json.dumps({"data_hash": "d", **split}))
    with pytest.raises(
        UserError, match=r"^params\.yaml: train\.class_weights: training has no image of 'b'; .* are a$"
    ):
        check_class_weights(workspace, asked, SPACE, source)
    check_class_weights(workspace, params({WEIGHTS: {"a": 2.0}}), SPACE, source)
    check_class_weights(workspace, params({WEIGHTS: {"b": 2.0}, "prepare.image_size": 8}), SPACE, source)  # other data


def test_plan_of_a_folder_names_the_imbalance_and_refuses_before_anything_is_prepared(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    write_folder(tmp_path / "photos", pictures({"cat": 12, "dog": 9, "owl": 3}))
    section = {"dataset": "image_folder", "root": "photos", "image_size": 8}
    workspace.params.write_text(json.dumps({"prepare": section}))
    plan = make_plan(workspace)
    assert (
        "\n          imbalanced: cat has 12 images (50.0 %), owl 3 (12.5 %); train.class_weights: " in plan.describe()
    )
    workspace.params.write_text(json.dumps({"prepare": section, "train": {"class_weights": {"Owl": 2.0}}}))
    assert "imbalanced: cat has 12 images (50.0 %), owl 3 (12.5 %); params.yaml sets" in make_plan(workspace).describe()
    workspace.params.write_text(json.dumps({"prepare": section, "train": {"class_weights": {"owls": 2.0}}}))
    with pytest.raises(UserError) as refused:
        make_plan(workspace)
    assert str(refused.value) == "params.yaml: train.class_weights: no class 'owls'; the classes are cat, dog, owl"


def test_images_of_a_test_split_of_the_sets_own_do_not_count(tmp_path: Path) -> None:
    files = {f"train/{name}": content for name, content in pictures({"cat": 9, "owl": 3}).items()}
    files |= {f"test/{name}": content for name, content in pictures({"cat": 3, "owl": 9}).items()}
    workspace = make_workspace(tmp_path)
    write_folder(tmp_path / "photos", files)
    workspace.params.write_text(json.dumps({"prepare": {"dataset": "image_folder", "root": "photos", "image_size": 8}}))
    plan = make_plan(workspace)
    assert plan.source.class_counts == (9, 3)
    assert "imbalanced: cat has 9 images (75.0 %), owl 3 (25.0 %)" in plan.describe()


def test_run_by_hand_with_weights_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    from pipeline.commands.train import train_once

    workspace = make_workspace(tmp_path)
    split: dict[str, Any] = {"train": list(range(14)), "val": [14, 15, 16], "test": [17, 18, 19]}
    workspace.split.write_text(json.dumps({"data_hash": "d", **split}))
    np.save(workspace.prepared / "images.npy", np.zeros((20, 8, 8, 1), np.uint8))
    manifest = json.loads((workspace.prepared / "manifest.json").read_text()) | {"image_size": [8, 8]}
    (workspace.prepared / "manifest.json").write_text(json.dumps(manifest))
    set_by_hand = {"train.class_weights": {"c": 2.0}, "base.device": "cpu"}
    with pytest.raises(UserError, match=r"^train\.class_weights: no class 'c'; the classes are a, b$"):
        list(train_once(workspace, set_by_hand))
