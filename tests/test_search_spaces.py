"""Claims about the spaces that come with the repository: each can be loaded as it is, and says what it is for."""

from pathlib import Path

import pytest

from pipeline.config import Params
from pipeline.tune.space import SearchSpace, load_space

FOLDER = Path(__file__).parents[1] / "search_spaces"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))


def load(name: str) -> SearchSpace:
    return load_space(FOLDER / name, Params(), shown_as=f"search_spaces/{name}")


def test_these_spaces_there_are() -> None:
    names = "baseline cutmix drloc finetune gta head_disagreement locality_guidance masks pretrained"
    names += " pretrained_sar sar sar_wide smoke sp_vit tv tv_wide"
    assert [name.removesuffix(".yaml") for name in FILES] == names.split()


@pytest.mark.parametrize("name", FILES)
def test_space_fits_the_parameters_and_has_the_control_that_retraining_compares_with(name: str) -> None:
    space = load(name)
    assert Params().retrain.control in space.controls


@pytest.mark.parametrize("name", FILES)
def test_head_says_what_is_searched_from_which_paper_what_to_expect_and_the_command(name: str) -> None:
    lines = (FOLDER / name).read_text().splitlines()
    head = lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]
    for word in ("# Searches ", "# Paper ", "# Expect ", "# Command "):
        assert sum(line.startswith(word) for line in head) == 1, word
    assert f"search.space=search_spaces/{name}" in "\n".join(head)
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("name", FILES)
def test_baseline_is_the_recipe_without_any_regulariser(name: str) -> None:
    baseline = Params().with_values(load(name).controls["baseline"], where=name)
    assert baseline == Params()


@pytest.mark.parametrize("method", ["sar", "tv"])
def test_wide_space_is_the_narrow_one_and_the_recipe_of_the_baseline(method: str) -> None:
    wide, narrow, recipe = load(f"{method}_wide.yaml"), load(f"{method}.yaml"), load("baseline.yaml")
    assert wide.dimensions == {**narrow.dimensions, **recipe.dimensions}
    assert wide.controls == narrow.controls
    assert wide.recipe().dimensions == recipe.dimensions


def test_recipe_that_is_searched_encloses_the_recipe_as_it_stands() -> None:
    for path, dimension in load("baseline.yaml").dimensions.items():
        assert dimension["low"] <= Params().value(path) <= dimension["high"], path


def test_pretrained_spaces_differ_by_sar_alone_and_their_control_has_fresh_weights() -> None:
    plain, ours, narrow = load("pretrained.yaml"), load("pretrained_sar.yaml"), load("sar.yaml")
    assert ours.dimensions == {**plain.dimensions, **narrow.dimensions}
    assert ours.controls["baseline"] == {**plain.controls["baseline"], **narrow.controls["baseline"]}
    begun = Params().with_values({"model.pretrained": "mine.pth"}, where="test")
    for space in (plain, ours):
        assert begun.with_values(space.controls["baseline"], where=space.file) == Params()
    assert plain.dimensions["train.lr"] == load("sp_vit.yaml").dimensions["train.lr"]  # so that both can be compared


def test_finetuning_searches_what_sar_does_with_rate_and_layer_decay_and_has_a_linear_probe() -> None:
    tuned, narrow = load("finetune.yaml"), load("sar.yaml")
    assert tuned.dimensions.keys() == {"train.lr", "train.layer_decay", *narrow.dimensions}
    assert {path: tuned.dimensions[path] for path in narrow.dimensions} == narrow.dimensions
    assert {name: tuned.controls[name] for name in narrow.controls} == narrow.controls
    probe = Params().with_values(tuned.controls["probe"], where="finetune.yaml")
    assert (probe.model.freeze, probe.regularizer.spatial_entropy.weight) == ("all", 0.0)
    assert probe.train.lr <= tuned.dimensions["train.lr"]["high"]
