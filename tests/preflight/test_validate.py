"""Claims about goals that are checked before a search: against the space's networks, and against the data's masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.search_state import make_workspace

from pipeline.config import Params
from pipeline.data.sources.source_config import Preview
from pipeline.errors import UserError
from pipeline.preflight.validate import check_masks, check_sizes, check_training_masks
from pipeline.tune.objectives.objectives import describe_objectives
from pipeline.tune.space import SearchSpace

DIGITS = Preview(images=1797, classes=tuple("0123456789"), channels=1)
SMALL = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}
PLAIN = SearchSpace("plain.yaml", {"train.lr": {"type": "float", "low": 0.1, "high": 1.0}}, {})
SIZES = SearchSpace(
    "sizes.yaml", {"model.kwargs": {"type": "categorical", "choices": [{**SMALL, "depth": 4}, SMALL]}}, {}
)
TWO = ["val/accuracy", "val/attention/jaccard"]


def params(**settings: Any) -> Params:
    return Params().with_values({name.replace("__", "."): value for name, value in settings.items()}, where="test")


def test_limit_that_no_network_of_the_space_keeps_is_refused_with_the_smallest() -> None:
    with pytest.raises(UserError) as said:
        check_sizes(params(search__constraints__max_parameters=7000), SIZES, DIGITS)
    assert str(said.value).startswith(
        "params.yaml: search.constraints.max_parameters: given 7,000, but the smallest network of sizes.yaml, over "
        "model.kwargs, has 7,"
    )
    check_sizes(params(search__constraints__max_parameters=10000), SIZES, DIGITS)  # which the larger one breaks
    with pytest.raises(
        UserError, match=r"smallest network \(vit_tiny_patch16_224; the space varies none\) has 203,466"
    ):
        check_sizes(params(search__constraints__max_parameters=7000), PLAIN, DIGITS)


def test_parameters_as_an_objective_are_refused_where_every_setting_has_as_many() -> None:
    asked = params(search__objectives=["val/accuracy", "parameters"])
    with pytest.raises(
        UserError, match=r"plain\.yaml varies nothing of the model, so every network has the same number of"
    ):
        check_sizes(asked, PLAIN, DIGITS)
    check_sizes(asked, SIZES, DIGITS)
    then = params(search__choose__then="parameters")
    with pytest.raises(UserError, match=r"search\.choose\.then: parameters: plain\.yaml varies nothing of the model"):
        check_sizes(then, PLAIN, DIGITS)
    check_sizes(then, SIZES, DIGITS)


def test_attention_is_refused_as_a_goal_where_the_data_have_no_masks_or_none_of_use(tmp_path: Path) -> None:
    workspace, asked = make_workspace(tmp_path), params(search__objectives=TWO)
    check_masks(workspace, Params())
    with pytest.raises(UserError) as said:
        check_masks(workspace, asked)
    assert "val/attention/jaccard: attention is scored against masks, and digits has none" in str(said.value)
    with pytest.raises(UserError, match="digits has none"):
        check_masks(workspace, params(search__constraints__min_attention_jaccard=0.2))
    with pytest.raises(UserError, match=r"val/attention/auroc: attention is scored against masks, and digits has none"):
        check_masks(workspace, params(search__choose__then="val/attention/auroc"))
    split = {role: list(range(start, start + 5)) for role, start in (("train", 0), ("val", 5), ("test", 10))}
    for masks, usable in (
        (np.zeros((20, 4, 4), np.uint8), False),
        (np.eye(4, dtype=np.uint8)[None].repeat(20, 0), True),
    ):
        np.save(workspace.prepared / "masks.npy", masks)
        manifest = json.loads((workspace.prepared / "manifest.json").read_text())
        manifest["sha256"]["masks"] = ""
        (workspace.prepared / "manifest.json").write_text(json.dumps(manifest))
        workspace.split.write_text(json.dumps({"data_hash": "d", **split}))
        if usable:
            check_masks(workspace, asked)
        else:
            with pytest.raises(UserError, match="no mask of a validation image holds both object and background"):
                check_masks(workspace, asked)


def test_method_that_is_told_where_objects_are_is_refused_where_no_training_image_says_it(tmp_path: Path) -> None:
    workspace, asked = make_workspace(tmp_path), {"mask_supervision": "masks.yaml", "plugin": "params.yaml"}
    check_training_masks(workspace, Params(), {})
    with pytest.raises(
        UserError, match=r"^masks\.yaml: regularizer\.mask_supervision: needs masks of the training images"
    ):
        check_training_masks(workspace, Params(), asked)
    split = {role: list(range(start, start + 5)) for role, start in (("train", 0), ("val", 5), ("test", 10))}
    masks = np.zeros((20, 4, 4), np.uint8)
    masks[5:] = np.eye(4, dtype=np.uint8)  # of validation and test images alone
    for train in (masks, np.eye(4, dtype=np.uint8)[None].repeat(20, 0)):
        np.save(workspace.prepared / "masks.npy", train)
        manifest = json.loads((workspace.prepared / "manifest.json").read_text())
        manifest["sha256"]["masks"] = ""
        (workspace.prepared / "manifest.json").write_text(json.dumps(manifest))
        check_training_masks(workspace, Params(), asked)  # there is no split yet, or it is of these data
        workspace.split.write_text(json.dumps({"data_hash": "d", **split}))
        if train is masks:
            with pytest.raises(UserError, match="no mask of a training image holds both object and background"):
                check_training_masks(workspace, Params(), asked)
            workspace.split.unlink()


def test_goals_are_told_in_the_plan_where_there_are_any() -> None:
    assert describe_objectives(Params()) == {}
    asked = params(search__objectives=TWO, search__constraints__max_parameters=5e6)
    assert describe_objectives(asked) == {
        "objectives": "maximize val/accuracy, maximize val/attention/jaccard; the configurations to "
        "confirm and retrain come from the Pareto front; local_gp proposes as tpe does",
        "within": "max_parameters 5,000,000",
    }
