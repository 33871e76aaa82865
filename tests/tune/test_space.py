"""Claims about search spaces: what the file may say, what is said of what it may not, and what Optuna gets."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.provenance.fingerprint import fingerprint, fingerprint_content
from pipeline.tune.space import SearchSpace, load_space

SAR = Path(__file__).parents[2] / "search_spaces" / "sar.yaml"
CONTROL = "controls: {baseline: {regularizer.spatial_entropy.weight: 0.0}}\n"
DIMENSION = "parameters: {train.lr: {type: float, low: 0.001, high: 0.1}}\n"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Loads a space from its text."""

    def load(text: str) -> SearchSpace:
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return load_space(path, Params(), shown_as="search_spaces/space.yaml")

    return load


def refusal(load: Any, text: str) -> list[str]:
    with pytest.raises(UserError) as refused:
        load(text)
    lines = str(refused.value).splitlines()
    assert all(line.startswith("search_spaces/space.yaml: ") for line in lines)
    return [line.removeprefix("search_spaces/space.yaml: ") for line in lines]


def test_space_of_the_repository_is_sound() -> None:
    space = load_space(SAR, Params(), shown_as="search_spaces/sar.yaml")
    assert space.distributions() == {
        "regularizer.spatial_entropy.weight": FloatDistribution(0.003, 1.0, log=True),
        "regularizer.spatial_entropy.layers": CategoricalDistribution(("last", "last_two", "all")),
        "regularizer.spatial_entropy.threshold": FloatDistribution(0.0, 0.5),
    }
    assert space.controls["baseline"] == {"regularizer.spatial_entropy.weight": 0.0}
    assert space.controls["paper"] == {
        "regularizer.spatial_entropy.weight": 0.01,
        "regularizer.spatial_entropy.layers": "last",
        "regularizer.spatial_entropy.threshold": 0.0,
    }


def test_default_control_of_retraining_is_a_control_of_the_space() -> None:
    assert Params().retrain.control in load_space(SAR, Params(), shown_as="sar.yaml").controls


def test_checks_look_at_all_choices_and_at_both_ends_of_a_range() -> None:
    space = load_space(SAR, Params(), shown_as="sar.yaml")
    assert space.values_at_ends("regularizer.spatial_entropy.weight") == [0.003, 1.0]
    assert space.values_at_ends("regularizer.spatial_entropy.layers") == ["last", "last_two", "all"]


def test_representative_configs_have_every_control_and_every_choice_with_all_weights_at_their_highest() -> None:
    space = load_space(SAR, Params(), shown_as="sar.yaml")
    found = list(space.representative_configs(Params()))
    assert [where for where, _ in found] == [
        "params.yaml",
        *(f"sar.yaml: controls.{name}" for name in space.controls),
        *["sar.yaml"] * 5,
    ]
    methods = [config.regularizer.spatial_entropy for where, config in found if where == "sar.yaml"]
    assert {(method.weight, method.threshold) for method in methods} == {(1.0, 0.5)}
    assert [method.layers for method in methods] == ["all", "last", "last_two", "all", "all"]


def test_dimensions_become_distributions_of_their_type(load: Any) -> None:
    space = load(
        "parameters:\n"
        "  train.lr: {type: float, low: 1e-4, high: 1, log: true}\n"
        "  train.weight_decay: {type: float, low: 0, high: 1, step: 0.25}\n"
        "  train.batch_size: {type: int, low: 16, high: 64, step: 16}\n"
        "  train.warmup_epochs: {type: int, low: 1, high: 5}\n"
        "  train.clip_grad: {type: categorical, choices: [null, 1.0]}\n" + CONTROL
    )
    assert space.distributions() == {
        "train.lr": FloatDistribution(1e-4, 1.0, log=True),
        "train.weight_decay": FloatDistribution(0.0, 1.0, step=0.25),
        "train.batch_size": IntDistribution(16, 64, step=16),
        "train.warmup_epochs": IntDistribution(1, 5),
        "train.clip_grad": CategoricalDistribution((None, 1.0)),
    }


def test_list_among_the_choices_goes_through_optuna_as_text_and_comes_back(load: Any) -> None:
    layers = "regularizer.spatial_entropy.layers"
    space = load(f"parameters:\n  {layers}: {{type: categorical, choices: [last, [0], [0, 2]]}}\n{CONTROL}")
    assert space.distributions()[layers] == CategoricalDistribution(("last", "[0]", "[0, 2]"))
    for choice, label in (("last", "last"), ([0], "[0]"), ([0, 2], "[0, 2]")):
        assert space.encode({layers: choice}) == {layers: label}
        assert space.decode({layers: label}) == {layers: choice}


def test_decoding_undoes_encoding_for_every_kind_of_value(load: Any) -> None:
    space = load(
        "parameters:\n"
        "  train.lr: {type: float, low: 0.001, high: 0.1}\n"
        "  train.batch_size: {type: int, low: 1, high: 9}\n"
        "  train.clip_grad: {type: categorical, choices: [null, 1, 0.5]}\n" + CONTROL
    )
    for clip in (None, 1, 0.5):
        values = {"train.lr": 0.01, "train.batch_size": 3, "train.clip_grad": clip}
        assert space.decode(space.encode(values)) == values


def test_content_is_the_same_whatever_the_file_is_called_and_says_beside(load: Any, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("# another\n" + DIMENSION + CONTROL)
    other = load_space(tmp_path / "other.yaml", Params(), shown_as="other.yaml")
    assert load(CONTROL + DIMENSION).content() == other.content()
    assert load(CONTROL + DIMENSION.replace("0.1", "0.2")).content() != other.content()


LR, BATCH = "train.lr", "train.batch_size"
LAYERS, WEIGHT = "regularizer.spatial_entropy.layers", "regularizer.spatial_entropy.weight"
DROP = "model.drop_path"


@pytest.mark.parametrize(
    ("path", "dimension", "said"),
    [
        ("train.lrr", "{type: float}", "train.lrr: unknown parameter train.lrr; did you mean train.lr?"),
        ("train", "{type: float}", "train: train is a group, not a parameter; it holds train.epochs, "),
        ("search.trials", "{type: int, low: 1, high: 9}", "search.trials: cannot be searched; only parameters of "),
        ("base.seed", "{type: int, low: 1, high: 9}", "base.seed: cannot be searched; only parameters of model, "),
        ("train.epochs", "{type: int, low: 1, high: 9}", "train.epochs: cannot be searched: early stopping compares"),
        (LR, "0.1", "train.lr: given 0.1; needed: a mapping with type: one of float, int, categorical"),
        (LR, "{low: 0.1, high: 1}", 'train.lr: given {"low": 0.1, "high": 1}; needed: a mapping with type: one of'),
        (LR, "{type: uniform, low: 0.1, high: 1}", 'train.lr: given {"type": "uniform", '),
        (LR, "{type: float, low: 0.1, high: 1, base: 2}", "train.lr: unknown key 'base' of a float dimension; known: "),
        (LR, "{type: float, low: 0.1, high: 1, choices: [1]}", "train.lr: unknown key 'choices' of a float dimension"),
        (LAYERS, "{type: categorical, choices: [last, all], log: true}", f"{LAYERS}: unknown key 'log' of a categ"),
        (LR, "{type: float, low: 0.1}", "train.lr: high: given null; needed: a number"),
        (LR, "{type: float, low: '0.1', high: 1}", "train.lr: low: given '0.1'; needed: a number"),
        (LR, "{type: float, low: true, high: 2}", "train.lr: low: given true; needed: a number"),
        (BATCH, "{type: int, low: 1.0, high: 8}", "train.batch_size: low: given 1.0; needed: a whole number"),
        (LR, "{type: float, low: 1, high: 0.1}", "train.lr: low 1 must be below high 0.1"),
        (LR, "{type: float, low: 0.1, high: 0.1}", "train.lr: low 0.1 must be below high 0.1"),
        (LR, "{type: float, low: .nan, high: 0.1}", "train.lr: low nan must be below high 0.1"),
        (WEIGHT, "{type: float, low: 0, high: 1, log: true}", f"{WEIGHT}: low 0 must be above 0 on a log scale; give"),
        (LR, "{type: float, low: 0.1, high: 1, log: 1}", "train.lr: log: given 1; allowed: true or false"),
        (LR, "{type: float, low: 0.1, high: 1, step: 0}", "train.lr: step: given 0; allowed: a number above 0"),
        (
            LR,
            "{type: float, low: 0.1, high: 1, log: true, step: 0.1}",
            "train.lr: step: given 0.1, but a step cannot be combined",
        ),
        (
            LR,
            "{type: float, low: 0.1, high: 0.8, step: 0.2}",
            "train.lr: step: steps of 0.2 from 0.1 end at 0.7, not at",
        ),
        (BATCH, "{type: int, low: 16, high: 100, step: 16}", "train.batch_size: step: steps of 16 from 16 end at 96,"),
        (BATCH, "{type: int, low: 1, high: 9, step: 0.5}", "train.batch_size: step: given 0.5; allowed: a number"),
        (LR, "{type: float, low: 0.1, high: 11}", "train.lr: given 11; allowed: number, above 0 and at most 10"),
        (LR, "{type: float, low: 0, high: 1}", "train.lr: given 0; allowed: number, above 0 and at most 10"),
        (LR, "{type: float, low: 0.1, high: .inf}", "train.lr: given Infinity; allowed: number, above 0 and at most"),
        (LAYERS, "{type: categorical, choices: [last, first]}", f"{LAYERS}: given 'first'; allowed: one of last, "),
        (LAYERS, "{type: float, low: 0, high: 1}", f"{LAYERS}: given 0; allowed: one of last, "),
        (LAYERS, "{type: categorical, choices: [last]}", f'{LAYERS}: choices: given ["last"]; needed: a list of at'),
        (LAYERS, "{type: categorical}", f"{LAYERS}: choices: given null; needed: a list of at least two values"),
        (LAYERS, "{type: categorical, choices: [all, last, all]}", f"{LAYERS}: choices: contains a value twice"),
        (LAYERS, "{type: categorical, choices: [[0, 1], [0, 1]]}", f"{LAYERS}: choices: contains a value twice"),
    ],
)
def test_dimension_that_cannot_be_searched_is_told_with_its_path(
    load: Any, path: str, dimension: str, said: str
) -> None:
    assert refusal(load, f"parameters:\n  {path}: {dimension}\n{CONTROL}")[0].startswith(said)


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ("{}", "`controls` must name at least one configuration"),
        ("[baseline]", "`controls` must name at least one configuration"),
        ("{Best: {}}", "controls.Best: a control's name must consist of lower-case letters, digits and _"),
        ("{best: {}}", "controls.best: a control's name must consist of lower-case letters, digits and _"),
        ("{1: {}}", "controls.1: a control's name must consist of lower-case letters, digits and _"),
        ("{a/b: {}}", "controls.a/b: a control's name must consist of lower-case letters, digits and _"),
        ("{off: 0}", "controls.off: given 0; needed: a mapping of parameters to values"),
        ("{off: {train.lrr: 1}}", "controls.off: unknown parameter train.lrr; did you mean train.lr?"),
        ("{off: {search.trials: 3}}", "controls.off: search.trials cannot be set by a control"),
        ("{off: {train.lr: 11}}", "controls.off: "),
    ],
)
def test_control_that_cannot_be_is_told_with_its_name(load: Any, controls: str, said: str) -> None:
    assert refusal(load, f"{DIMENSION}controls: {controls}\n")[0].startswith(said)


def test_control_without_values_is_the_setting_of_the_params_file(load: Any) -> None:
    assert load(DIMENSION + "controls: {as_given: {}}\n").controls == {"as_given": {}}


@pytest.mark.parametrize("text", ["", "[1]\n", "train.lr\n"])
def test_file_that_is_no_mapping_is_told(load: Any, text: str) -> None:
    assert refusal(load, text) == ["a mapping with `parameters` and `controls` is needed."]


def test_file_without_parameters_or_with_other_keys_is_told(load: Any) -> None:
    assert refusal(load, CONTROL + "params: {}\n") == [
        "unknown key 'params'; known: parameters, controls",
        "`parameters` must name at least one parameter that varies",
    ]
    assert refusal(load, DIMENSION) == [
        "`controls` must name at least one configuration that a result is compared with"
    ]


def test_every_mistake_is_told_at_once(load: Any) -> None:
    text = "parameters: {train.lr: 3, search.trials: 4}\ncontrols: {best: {}}\n"
    assert [line.split(":")[0] for line in refusal(load, text)] == ["train.lr", "search.trials", "controls.best"]


def test_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_space(tmp_path / "none.yaml", Params(), shown_as="none.yaml")


def test_float_range_of_a_whole_number_is_told(load: Any) -> None:
    refusal(load, f"parameters: {{train.batch_size: {{type: float, low: 16, high: 64}}}}\n{CONTROL}")


def test_int_range_of_a_parameter_with_fixed_choices_is_told(load: Any) -> None:
    path = "regularizer.spatial_entropy.connectivity"
    refusal(load, f"parameters: {{{path}: {{type: int, low: 4, high: 8}}}}\n{CONTROL}")


def test_step_that_is_not_a_number_is_told(load: Any) -> None:
    refusal(load, f"parameters: {{train.lr: {{type: float, low: 0.1, high: 1, step: .nan}}}}\n{CONTROL}")


@pytest.mark.parametrize("step", ["0.91", ".inf"])
def test_step_beyond_the_range_is_told(load: Any, step: str) -> None:
    refusal(load, f"parameters: {{train.lr: {{type: float, low: 0.1, high: 1, step: {step}}}}}\n{CONTROL}")


def test_step_that_binary_fractions_cannot_hold_divides_its_range(load: Any) -> None:
    space = load(f"parameters: {{train.lr: {{type: float, low: 0.1, high: 0.7, step: 0.1}}}}\n{CONTROL}")
    assert space.distributions() == {"train.lr": FloatDistribution(0.1, 0.7, step=0.1)}


def test_type_that_is_a_list_is_told(load: Any) -> None:
    refusal(load, f"parameters: {{train.lr: {{type: [float], low: 0.1, high: 1}}}}\n{CONTROL}")


def test_mappings_among_the_choices_go_through_optuna_as_text(load: Any) -> None:
    path = "model.kwargs"
    space = load(f"parameters: {{{path}: {{type: categorical, choices: [{{depth: 2}}, {{depth: 4}}]}}}}\n{CONTROL}")
    assert space.decode(space.encode({path: {"depth": 4}})) == {path: {"depth": 4}}


def test_control_with_other_planned_epochs_is_told(load: Any) -> None:
    refusal(load, DIMENSION + "controls: {short: {train.epochs: 4}}\n")


def test_control_named_as_a_trial_is_told(load: Any) -> None:
    refusal(load, DIMENSION + "controls: {t0001: {train.lr: 0.1}}\n")


def test_mistake_in_a_control_is_told_with_its_parameter(load: Any) -> None:
    assert "train.lr" in refusal(load, DIMENSION + "controls: {off: {train.lr: 11, train.weight_decay: 0.1}}\n")[0]


@pytest.mark.parametrize("path", ["train.warmup_epochs", "train.lr"])
def test_range_beyond_the_bounds_is_told_in_a_line_or_two(load: Any, path: str) -> None:
    dimension = (
        "{type: int, low: -500, high: 5}" if path == "train.warmup_epochs" else "{type: float, low: 1, high: .inf}"
    )
    lines = refusal(load, f"parameters: {{{path}: {dimension}}}\n{CONTROL}")
    assert len(lines) <= 2
    assert len(set(lines)) == len(lines)


def test_range_beyond_all_measure_is_taken_or_told(load: Any) -> None:
    with contextlib.suppress(UserError):
        load(f"parameters: {{train.batch_size: {{type: int, low: 1, high: {10**30}}}}}\n{CONTROL}")


def test_step_that_is_too_small_to_count_is_told(load: Any) -> None:
    said = refusal(load, f"parameters: {{train.lr: {{type: float, low: 1, high: 2, step: 1e-320}}}}\n{CONTROL}")
    assert said[0].startswith("train.lr: step: given 1e-320; allowed: ")


def test_range_whose_ends_add_up_to_infinity_has_a_middle(load: Any) -> None:
    load(f"parameters: {{train.clip_grad: {{type: float, low: 1e308, high: 1.7e308}}}}\n{CONTROL}")


@pytest.mark.parametrize("high", [10**12, 10**240])
def test_range_of_whole_numbers_that_no_machine_word_holds_is_told(load: Any, high: int) -> None:
    said = refusal(load, f"parameters: {{train.batch_size: {{type: int, low: 1, high: {high}}}}}\n{CONTROL}")
    assert "allowed: whole number, at least 1 and at most 1000000" in said[0]


@pytest.mark.parametrize("choices", ["&itself [*itself, last]", "[!!set {a}, last]", "[&itself {a: *itself}, last]"])
def test_choices_that_cannot_be_compared_are_told(load: Any, choices: str) -> None:
    said = refusal(load, f"parameters: {{{LAYERS}: {{type: categorical, choices: {choices}}}}}\n{CONTROL}")
    assert "allowed: one of last, " in said[0]


@pytest.mark.parametrize(
    "text",
    [
        f"parameters: {{? {'x' * 100_000} : 1}}\n{CONTROL}",
        f"{DIMENSION}controls: {{? {'x' * 100_000} : {{}}}}\n",
        f"parameters: {{train.lr: {'x' * 100_000}}}\n{CONTROL}",
        f"{DIMENSION}{CONTROL}? {'x' * 100_000}\n: 1\n",
        f"{DIMENSION}controls: {{{', '.join(f'C{number}: 1' for number in range(500))}}}\n",
    ],
    ids=["parameter", "control", "dimension", "key", "controls"],
)
def test_message_is_short_however_much_is_wrong(load: Any, text: str) -> None:
    with pytest.raises(UserError) as refused:
        load(text)
    assert len(str(refused.value)) < 2000


def test_choices_that_are_no_plain_values_are_told(load: Any) -> None:
    choices = "[{depth: 2, since: 2023-01-01}, {depth: 4}]"
    refusal(load, f"parameters: {{model.kwargs: {{type: categorical, choices: {choices}}}}}\n{CONTROL}")


RANGE, ON_LOG = "type: float, low: 0.001, high: 0.1", "type: float, low: 0.001, high: 0.1, log: true"
WORDS = "type: categorical, choices: [last, [0, 1], all]"


@pytest.mark.parametrize(
    ("path", "dimension", "prior"),
    [
        (LR, RANGE, "{center: 0.02, spread: 0.5}"),
        (LR, RANGE, "{center: 0.1}"),
        (LR, RANGE, "{lognormal: [0.02, 2]}"),
        (LR, ON_LOG, "{center: 0.02, spread: 2}"),
        (LR, ON_LOG, "{normal: [0.1, 0.5]}"),
        (LR, ON_LOG, "{beta: [1, 1000]}"),
        (BATCH, "type: int, low: 16, high: 64, step: 16", "{center: 48, spread: 0.1}"),
        (BATCH, "type: int, low: 16, high: 64, step: 16", "{normal: [40, 8.5]}"),
        (LAYERS, WORDS, "{center: [0, 1]}"),
        (LAYERS, WORDS, "{center: last, weight: 0.2}"),
        (LAYERS, WORDS, "{probabilities: {last: 0.6, '[0, 1]': 0.3}}"),
        (LAYERS, WORDS, "{probabilities: {last: 0.6, '[0, 1]': 0.3, all: 0.1}}"),
    ],
)
def test_prior_is_taken_and_is_what_a_search_is_known_by(load: Any, path: str, dimension: str, prior: str) -> None:
    with_prior = load(f"parameters: {{{path}: {{{dimension}, prior: {prior}}}}}\n{CONTROL}")
    without = load(f"parameters: {{{path}: {{{dimension}}}}}\n{CONTROL}")
    assert with_prior.distributions() == without.distributions()
    names = {
        fingerprint(fingerprint_content(Params(), space.content(), data_hash="d", split_hash="s"))
        for space in (with_prior, without)
    }
    assert len(names) == 2


def test_example_of_the_documentation_is_a_space(load: Any) -> None:
    text = (SAR.parents[1] / "docs" / "searching" / "priors.md").read_text()
    (example,) = [part.split("```")[0] for part in text.split("```yaml\n") if part.startswith("parameters:")]
    space = load(example + CONTROL)
    assert all("prior" in dimension for dimension in space.dimensions.values())


@pytest.mark.parametrize(
    ("path", "dimension", "prior", "said"),
    [
        (LR, RANGE, "0.02", "given 0.02; needed: a mapping with one of center (and spread), normal, lognormal, beta"),
        (LR, RANGE, "'0,02'", "given '0,02' (a decimal comma; write 0.02, with a point); needed: a mapping with one"),
        (LR, RANGE, "null", "given null; needed: a mapping with one of center (and spread), normal, lognormal, beta"),
        (LR, RANGE, "{}", "given {}; needed: one of center (and spread), normal, lognormal, beta"),
        (LR, RANGE, "{spread: 2}", 'given {"spread": 2}; needed: one of center (and spread), normal'),
        (LR, RANGE, "{center: 0.02, beta: [2, 2]}", 'given {"center": 0.02, "beta": [2, 2]}; needed: one of center'),
        (LR, RANGE, "{normal: [0.02, 1], spread: 2}", "spread goes with center, not with normal"),
        (LR, RANGE, "{mean: 0.02}", "unknown key 'mean' for a float parameter; known: center, spread, normal"),
        (LR, RANGE, "{center: 0.02, weight: 0.5}", "unknown key 'weight' for a float parameter; known: center"),
        (LR, RANGE, "{center: 0,02}", "unknown key 2 for a float parameter (within { } a comma ends a value; write"),
        (LR, RANGE, "{center: 0.2}", "center: given 0.2; allowed: 0.001 to 0.1"),
        (LR, RANGE, "{center: true}", "center: given true; allowed: 0.001 to 0.1"),
        (LR, RANGE, "{center: .nan}", "center: given NaN; allowed: 0.001 to 0.1"),
        (LR, RANGE, "{center: [0.02]}", "center: given [0.02]; allowed: 0.001 to 0.1"),
        (LR, RANGE, "{center: '0,02'}", "center: given '0,02' (a decimal comma; write 0.02, with a point); allowed"),
        (LR, RANGE, "{center: 0.02, spread: 0}", "spread: given 0; allowed: a number above 0, in the parameter's unit"),
        (LR, RANGE, "{center: 0.02, spread: .inf}", "spread: given Infinity; allowed: a number above 0"),
        (LR, RANGE, "{center: 0.02, spread: null}", "spread: given null; allowed: a number above 0"),
        (LR, ON_LOG, "{center: 0.02, spread: 1}", "spread: given 1; allowed: a factor above 1, such as 2 for twice"),
        (LR, ON_LOG, "{center: 0.02, spread: 0.5}", "spread: given 0.5; allowed: a factor above 1, such as 2 for"),
        (LR, RANGE, "{normal: 0.02}", "normal: given 0.02; needed: two numbers, [mean, standard deviation]"),
        (LR, RANGE, "{normal: [0.02]}", "normal: given [0.02]; needed: two numbers, [mean, standard"),
        (LR, RANGE, "{normal: [0,5, 1]}", "normal: given [0, 5, 1] (within [ ] a comma ends a value; write a decimal"),
        (LR, RANGE, "{normal: [0.2, 1]}", "normal: mean: given 0.2; allowed: 0.001 to 0.1"),
        (LR, RANGE, "{normal: [0.02, -1]}", "normal: standard deviation: given -1; allowed: a number above 0, in the"),
        (LR, RANGE, "{lognormal: [0.2, 2]}", "lognormal: median: given 0.2; allowed: 0.001 to 0.1"),
        (LR, RANGE, "{lognormal: [0.02, 1]}", "lognormal: factor: given 1; allowed: a factor above 1"),
        (LR, RANGE, "{beta: [0.5, 2]}", "beta: given [0.5, 2]; allowed: two numbers from 1 to 1000"),
        (LR, RANGE, "{beta: [2, 1001]}", "beta: given [2, 1001]; allowed: two numbers from 1 to 1000"),
        (LR, RANGE, "{beta: {a: 1, b: 2}}", 'beta: given {"a": 1, "b": 2}; needed: two numbers, [a, b]'),
        (LR, RANGE, "{probabilities: {0.02: 1}}", "unknown key 'probabilities' for a float parameter; known: center"),
        (DROP, "type: float, low: 0, high: 0.3", "{lognormal: [0.1, 2]}", "lognormal: low 0 must be above 0 for it;"),
        (BATCH, "type: int, low: 16, high: 64, step: 16", "{center: 40}", "center: given 40; allowed: 16 to 64 in ste"),
        (BATCH, "type: int, low: 16, high: 64", "{center: 40.0}", "center: given 40.0; allowed: 16 to 64"),
        (LAYERS, WORDS, "{normal: [0, 1]}", "unknown key 'normal' for a categorical parameter; known: center, weight,"),
        (LAYERS, WORDS, "last", "given 'last'; needed: a mapping with one of center (and weight), probabilities"),
        (LAYERS, WORDS, "{center: first}", "center: given 'first'; allowed: last, [0, 1], all"),
        (LAYERS, WORDS, "{center: &itself [*itself]}", "center: given [[[["),
        (LAYERS, WORDS, "{center: last, weight: 1}", "weight: given 1; allowed: a probability above 0 and below 1"),
        (LAYERS, WORDS, "{center: last, weight: 0}", "weight: given 0; allowed: a probability above 0 and below 1"),
        (LAYERS, WORDS, "{probabilities: [0.2, 0.8]}", "probabilities: given [0.2, 0.8]; needed: a mapping of choices"),
        (LAYERS, WORDS, "{probabilities: {}}", "probabilities: given {}; needed: a mapping of choices"),
        (
            LAYERS,
            WORDS,
            "{probabilities: {first: 0.5}}",
            "probabilities: given 'first'; the choices: last, [0, 1], all",
        ),
        (LAYERS, WORDS, "{probabilities: {last: 0}}", "probabilities: 'last': given 0; allowed: a probability above 0"),
        (LAYERS, WORDS, "{probabilities: {last: 0.6, all: 0.4}}", "probabilities: they add up to 1, which leaves noth"),
        (
            LAYERS,
            WORDS,
            "{probabilities: {last: 0.6, all: 0.2, '[0, 1]': 0.1}}",
            "probabilities: they add up to 0.9; ne",
        ),
        (LAYERS, WORDS, "{probabilities: {last: 0.5}, center: last}", 'given {"probabilities": {"last": 0.5}, "cen'),
        (LAYERS, WORDS, "{probabilities: {last: 0.5}, weight: 0.5}", "weight goes with center, not with probabilities"),
    ],
)
def test_prior_that_cannot_be_is_told_with_its_parameter(
    load: Any, path: str, dimension: str, prior: str, said: str
) -> None:
    (line,) = refusal(load, f"parameters: {{{path}: {{{dimension}, prior: {prior}}}}}\n{CONTROL}")
    assert line.startswith(f"{path}: prior: {said}")
