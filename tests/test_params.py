"""Claims about parameters after they were read: values by path, other values, what the rooms take of them."""

import inspect
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config import Params, unknown_parameter
from pipeline.errors import UserError
from pipeline.models.model_config import ModelConfig, SpatialPriorConfig
from pipeline.regularizers.registry import METHODS
from pipeline.train.train_config import TrainConfig


def test_with_values_replaces_the_parameters_at_the_paths() -> None:
    params = Params()
    changed = params.with_values(
        {"train.lr": 0.5, "regularizer.spatial_entropy.layers": [0, 2], "register.name": "mine"}, where="trial t0001"
    )
    assert changed.train.lr == 0.5
    assert changed.regularizer.spatial_entropy.layers == [0, 2]
    assert changed.register_.name == "mine"
    assert changed.value("register.name") == "mine"
    assert changed.train.epochs == params.train.epochs
    assert params == Params()


def test_with_values_of_nothing_is_the_same() -> None:
    assert Params().with_values({}, where="") == Params()


def test_with_values_replaces_the_keywords_of_the_network_as_a_whole() -> None:
    changed = Params().with_values({"model.kwargs": {"depth": 2}}, where="")
    assert changed.model.kwargs == {"depth": 2}
    assert Params().model.kwargs == {"patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train.lr": -1}, "trial t0001: train.lr: given -1; allowed: number, above 0 and at most 10"),
        ({"train.learning": 1}, "trial t0001: unknown parameter train.learning"),
        ({"train": {"lr": 1}}, "trial t0001: train is a group, not a parameter; it holds train.epochs, "),
        ({"train.lr.peak": 1}, "trial t0001: unknown parameter train.lr.peak"),
    ],
)
def test_with_values_refuses_as_the_file_does_and_says_who_gave_them(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        Params().with_values(values, where="trial t0001")
    assert str(refused.value).startswith(said)


def test_value_is_found_by_its_path() -> None:
    assert Params().value("search.scheduler.grace_period") == Params().search.scheduler.grace_period
    with pytest.raises(UserError, match=r"unknown parameter train\.lrs; did you mean train\.lr\?"):
        Params().value("train.lrs")


def test_unknown_parameter_that_is_near_nothing_gets_no_advice() -> None:
    assert unknown_parameter("zzzzzzzzz") == "unknown parameter zzzzzzzzz"


def test_params_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Params().train.lr = 0.5  # type: ignore[misc, unused-ignore]


def test_sections_build_the_plain_values_that_the_rooms_take() -> None:
    params = Params()
    assert params.model.config() == ModelConfig(
        "vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4}, "xavier", 0.0
    )
    changed = params.with_values({"model.last_block": "no_skip", "model.spatial_prior.blocks": 2}, where="")
    assert changed.model.config().last_block == "no_skip"
    assert changed.model.config().spatial_prior == SpatialPriorConfig(2, None, False)
    assert params.train.config() == TrainConfig(8, 32, 0.002, 0.0, 1, 0.3, 0.0, None, 1)
    assert params.with_values({"train.accumulate": 4}, where="").train.config().accumulate == 4
    mixed = params.with_values({"train.mixup": 0.8, "train.augment": "deit"}, where="").train.config()
    assert (mixed.mixup, mixed.augment, mixed.cutmix) == (0.8, "deit", 0.0)
    assert params.regularizer.configs().keys() == METHODS.keys()
    assert params.regularizer.configs()["spatial_entropy"] == {
        "weight": 0.0,
        "schedule": "warmup_cosine",
        "watch": True,
        "layers": "last",
        "query": "cls",
        "threshold": 0.0,
        "connectivity": 8,
    }
    listed = params.with_values({"regularizer.spatial_entropy.layers": [0, 1]}, where="")
    assert listed.regularizer.configs()["spatial_entropy"]["layers"] == (0, 1)


def test_plugin_that_is_named_is_a_method_with_its_options_and_without_a_name_there_is_none() -> None:
    assert "plugin" not in Params().with_values({"regularizer.plugin_weight": 1.0}, where="").regularizer.configs()
    values = {
        "regularizer.plugin": "mine:Mine",
        "regularizer.plugin_weight": 0.5,
        "regularizer.plugin_options": {"a": 1},
    }
    assert Params().with_values(values, where="").regularizer.configs()["plugin"] == {
        "spec": "mine:Mine",
        "weight": 0.5,
        "schedule": "warmup_cosine",
        "watch": False,
        "options": {"a": 1},
    }


@pytest.mark.parametrize("name", METHODS)
def test_section_of_a_method_has_the_keywords_of_its_constructor_and_their_defaults(name: str) -> None:
    keywords = inspect.signature(METHODS[name]).parameters
    config = Params().regularizer.configs()[name]
    assert set(config) == set(keywords) - {"load_source", "guide"}
    given = {key: value for key, value in config.items() if keywords[key].default is not inspect.Parameter.empty}
    assert given == {key: keywords[key].default for key in given}
    assert set(config) - set(given) <= {"weight", "source"}


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("photos", "photos"),
        ("/data/My photos (2024)/", "My-photos-2024"),
        ("../sets/cifar10-images.tar.xz", "cifar10-images"),
        ("birds.v2.ZIP", "birds.v2"),
        ("archive.tgz", "archive"),
        ("..", "image_folder"),
        ("Vögel", "Vögel"),
        ("x" * 300, "x" * 100),
    ],
)
def test_set_is_named_after_the_folder_or_archive(root: str, name: str) -> None:
    params = Params().with_values({"prepare.dataset": "image_folder", "prepare.root": root}, where="")
    assert params.set_name == name
    assert (params.model_name, params.experiment) == (f"sar-{name}", f"sar-search/{name}")


def test_names_that_are_given_win_over_those_of_the_set() -> None:
    assert (Params().model_name, Params().experiment) == ("sar-digits", "sar-search/digits")
    params = Params().with_values({"register.name": "mine", "tracking.experiment": "ours"}, where="")
    assert (params.model_name, params.experiment) == ("mine", "ours")
