"""Claims about numbers with a decimal comma: wherever one is written, it is told as what it is, with its place."""

from pathlib import Path

import pytest

from pipeline.commands.train import parse_assignments
from pipeline.config import Params, load_params
from pipeline.errors import UserError, comma_words
from pipeline.tune.space import load_space
from pipeline.tune.study.warm_start import check_points

WRITE = "(a decimal comma; write 0.01, with a point)"
BRACES = "(within { } a comma ends a value; write a decimal point, as in 0.01)"


def of_params(tmp_path: Path, text: str) -> str:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_params(tmp_path / "params.yaml")
    return str(refused.value)


@pytest.mark.parametrize("path", ["train.lr", "split.val_fraction", "train.clip_grad", "search.budget.hours"])
def test_in_params(tmp_path: Path, path: str) -> None:
    *sections, name = path.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    said = of_params(tmp_path, "\n".join([*lines, f"{'  ' * len(sections)}{name}: 0,01"]))
    assert said.startswith(f"params.yaml: {path}: given '0,01' {WRITE}; allowed: ")


def test_in_a_mapping_of_params(tmp_path: Path) -> None:
    said = of_params(tmp_path, "train:\n  class_weights:\n    owl: 2.0\n    cat: 0,01")
    assert said.startswith('params.yaml: train.class_weights: given {"owl": 2.0, "cat": "0,01"} ' + WRITE)
    assert BRACES in of_params(tmp_path, "train: {class_weights: {owl: 0,5}}")


def test_in_braces_of_params(tmp_path: Path) -> None:
    said = of_params(tmp_path, "search: {budget: {hours: 0,5}}")
    assert "search.budget.5" in said
    assert BRACES in said


def test_in_settings_by_hand() -> None:
    with pytest.raises(UserError) as refused:
        Params().with_values(parse_assignments(["train.lr=0,01"]), where="--set")
    assert str(refused.value).startswith(f"--set: train.lr: given '0,01' {WRITE}")


@pytest.mark.parametrize(
    "text",
    [
        "search: {points: {mine: {regularizer.spatial_entropy.weight: 0,001}}}",
        "model: {kwargs: {mlp_ratio: 2,5}}",
        "model: {kwargs: {drop_rate: 1,5e-3}}",
        "regularizer: {plugin_options: {a: 0,1}}",
        "train: {lr: 0,002}",
    ],
)
def test_in_braces_of_every_mapping(tmp_path: Path, text: str) -> None:
    assert BRACES in of_params(tmp_path, text)


def test_a_whole_number_with_a_value_is_no_decimal_comma(tmp_path: Path) -> None:
    assert "decimal" not in of_params(tmp_path, "model: {kwargs: {3: 4}}")
    itself: dict[str, object] = {}
    itself["itself"] = itself
    assert comma_words({"a": itself}) == ""


def refusal(tmp_path: Path, dimension: str, control: str = "{}") -> str:
    (tmp_path / "space.yaml").write_text(f"parameters:\n  train.lr: {dimension}\ncontrols:\n  baseline: {control}\n")
    with pytest.raises(UserError) as refused:
        load_space(tmp_path / "space.yaml", Params(), shown_as="space.yaml")
    return str(refused.value)


def test_in_a_space(tmp_path: Path) -> None:
    for key, others in (("low", "high: 1"), ("high", "low: 0.001"), ("step", "low: 0.001\n    high: 1")):
        said = refusal(tmp_path, f"\n    type: float\n    {key}: 0,01\n    {others}")
        assert said.startswith(f"space.yaml: train.lr: {key}: given '0,01' {WRITE}")
    said = refusal(tmp_path, "{type: float, low: 0,01, high: 0,1, log: true}")
    assert said.endswith(f'line 2: not valid YAML: found duplicate key "1" {BRACES}')
    said = refusal(tmp_path, "{type: float, low: 0,01, high: 1, log: true}")
    assert f"train.lr: unknown key 1 of a float dimension {BRACES}; known: high, log, low, prior, step" in said
    said = refusal(tmp_path, "\n    type: categorical\n    choices:\n    - 0,01\n    - 0.1")
    assert f"train.lr: given '0,01' {WRITE}" in said


def test_in_a_control(tmp_path: Path) -> None:
    said = refusal(tmp_path, "{type: float, low: 0.001, high: 1.0}", "{regularizer.spatial_entropy.weight: 0,01}")
    assert said == f"space.yaml: controls.baseline: unknown parameter 1 {BRACES}"


@pytest.mark.parametrize("choices", ["0,01, 0,02", "1,02, 3", "0,5, 1,2", "0,5, 0,1", "1,5, 2,5", "-1,02e-3, 1"])
def test_in_choices(tmp_path: Path, choices: str) -> None:
    (tmp_path / "space.yaml").write_text(
        f"parameters:\n  regularizer.spatial_entropy.weight: {{type: categorical, choices: [{choices}]}}\n"
        "controls:\n  baseline: {}\n"
    )
    with pytest.raises(UserError) as refused:
        load_space(tmp_path / "space.yaml", Params(), shown_as="space.yaml")
    assert BRACES.replace("{ }", "[ ]") in str(refused.value)


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        ("regularizer.spatial_entropy.weight", "0, 1, 2, 5"),
        ("regularizer.spatial_entropy.weight", "5, 1"),
        ("regularizer.spatial_entropy.weight", "0, 5.0, 1, 2"),
        ("train.batch_size", "8, 32, 16, 64"),
    ],
)
def test_whole_numbers_that_are_meant_are_taken(tmp_path: Path, path: str, choices: str) -> None:
    (tmp_path / "space.yaml").write_text(
        f"parameters:\n  {path}: {{type: categorical, choices: [{choices}]}}\ncontrols:\n  baseline: {{}}\n"
    )
    load_space(tmp_path / "space.yaml", Params(), shown_as="space.yaml")


def test_in_points(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "parameters:\n  train.lr: {type: float, low: 0.001, high: 1.0}\ncontrols:\n  baseline: {}\n"
    )
    space = load_space(tmp_path / "space.yaml", Params(), shown_as="space.yaml")
    with pytest.raises(UserError) as refused:
        check_points(Params().with_values({"search.points": {"mine": {"train.lr": "0,01"}}}, where=""), space)
    assert str(refused.value).startswith(f"params.yaml: search.points.mine: train.lr: given '0,01' {WRITE}")


def test_what_is_no_number_is_not_taken_for_one() -> None:
    assert comma_words("-1,5e-3") == " (a decimal comma; write -1.5e-3, with a point)"
    for other in ("a,b", "1,2,3", ",5", "0.01", 5, None, ["0,01"], "1, 2"):
        assert not comma_words(other)
