"""Claims about params.yaml: what it may hold, and what is said of what it may not."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Params, load_params, parameters
from pipeline.config.messages import allowed_values
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a params.yaml and gives its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "params.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        load_params(path)
    return str(refused.value)


def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths of a mapping of mappings; what maps keywords to values is one parameter, whatever it holds."""
    found = []
    for name, value in tree.items():
        path = prefix + name
        if isinstance(value, dict) and path not in ("model.kwargs", "regularizer.plugin_options", "search.points"):
            found += leaves(value, path + ".")
        else:
            found.append(path)
    return found


def test_params_file_of_the_repository_lists_every_parameter_in_order() -> None:
    assert leaves(read_yaml(PARAMS_FILE)) == list(parameters())


def test_params_file_of_the_repository_holds_the_defaults() -> None:
    assert load_params(PARAMS_FILE) == Params()


def test_every_parameter_has_a_sentence_and_says_what_is_allowed() -> None:
    for path, field in parameters().items():
        assert field.description, path
        assert field.description.endswith("."), path
        assert allowed_values(field), path
        assert "typing" not in allowed_values(field), path
        assert "<class" not in allowed_values(field), path


def test_empty_file_gives_the_defaults(written: Any) -> None:
    assert load_params(written("")) == Params()
    assert load_params(written("# nothing here\n")) == Params()


def test_file_that_sets_some_parameters_leaves_the_others_at_their_defaults(written: Any) -> None:
    params = load_params(written("search: {trials: 64, sampler: {name: random}}\ntracking: {uri: null}\n"))
    assert params.search.trials == 64
    assert params.search.sampler.name == "random"
    assert params.search.sampler.startup_trials == 5
    assert params.search.scheduler == Params().search.scheduler
    assert params.train == Params().train


def test_exponents_are_numbers_as_they_are_for_dvc(written: Any) -> None:
    params = load_params(written("train: {lr: 1e-3, weight_decay: 5E-2}\n"))
    assert params.train.lr == 0.001
    assert params.train.weight_decay == 0.05


def test_words_like_off_are_text_as_they_are_for_dvc(written: Any) -> None:
    assert load_params(written("register: {name: off}\n")).register_.name == "off"


def test_whole_numbers_are_good_numbers(written: Any) -> None:
    params = load_params(written("train: {lr: 1, clip_grad: 2}\n"))
    assert params.train.lr == 1.0
    assert isinstance(params.train.lr, float)
    assert params.train.clip_grad == 2.0


MAPPING = "a mapping of names (in quotes where they are numbers), each to a number"
REFUSED = [
    ("base.seed", -1, "whole number, at least 0 and below 2147483648"),
    ("base.seed", 2147483648, "whole number, at least 0 and below 2147483648"),
    ("base.device", "gpu", "one of auto, cpu, cuda"),
    ("prepare.dataset", "cifar", "one of digits"),
    ("prepare.image_size", 12.0, "whole number, at least 4 and at most 1024"),
    ("split.val_fraction", 0, "number, above 0 and below 1"),
    ("split.test_fraction", 1, "number, above 0 and below 1"),
    ("model.name", "", "text, length at least 1"),
    ("model.kwargs", 7, "a mapping of names to plain values"),
    ("model.init", "zeros", "one of xavier, timm"),
    ("model.drop_path", 1.0, "number, at least 0 and below 1"),
    ("model.freeze", -1, "whole number, at least 0 and at most 1000 or all"),
    ("model.freeze", "most", "whole number, at least 0 and at most 1000 or all"),
    ("model.freeze", True, "whole number, at least 0 and at most 1000 or all"),
    ("model.last_block", "nosn", "one of standard, no_skip"),
    ("model.spatial_prior.blocks", -1, "whole number, at least 0"),
    ("model.spatial_prior.hidden", 0, "whole number or null, at least 1"),
    ("model.spatial_prior.positional_conv", 1, "true or false"),
    ("train.epochs", 0, "whole number, at least 1 and at most 100000"),
    ("train.epochs", True, "whole number, at least 1 and at most 100000"),
    ("train.batch_size", "64", "whole number, at least 1"),
    ("train.lr", 0, "number, above 0 and at most 10"),
    ("train.lr", "0.1", "number, above 0 and at most 10"),
    ("train.lr", None, "number, above 0 and at most 10"),
    ("train.lr", True, "number, above 0 and at most 10"),
    ("train.min_lr", -0.1, "number, at least 0 and at most 10"),
    ("train.clip_grad", 0.0, "number or null, above 0"),
    ("train.label_smoothing", 1.0, "number, at least 0 and below 1"),
    ("train.accumulate", 0, "whole number, at least 1 and at most 64"),
    ("train.accumulate", 65, "whole number, at least 1 and at most 64"),
    ("train.optimizer", "adam", "one of adamw, nadamw, lamb, lion, sgd"),
    ("train.scheduler", "step", "one of cosine, linear, constant"),
    ("train.warmup_lr", -1e-6, "number or null, at least 0 and at most 10"),
    ("train.mixup", -0.1, "number, at least 0 and at most 100"),
    ("train.cutmix", "1", "number, at least 0 and at most 100"),
    ("train.mixup_prob", 0, "number, above 0 and at most 1"),
    ("train.mixup_switch", 1.1, "number, at least 0 and at most 1"),
    ("train.augment", "heavy", "one of none, light, deit"),
    ("train.flip", 1, "true or false"),
    ("train.erasing", 1.1, "number, at least 0 and at most 1"),
    ("train.ema_decay", 1.0, "number, at least 0 and below 1"),
    ("train.precision", "float16", "one of float32, bfloat16"),
    ("train.grad_checkpointing", "yes", "true or false"),
    ("train.compile", "sometimes", "one of auto, always, never"),
    ("train.layer_decay", 0, "number, above 0 and at most 1"),
    ("train.layer_decay", 1.01, "number, above 0 and at most 1"),
    ("train.classifier_lr_scale", 0, "number, above 0 and at most 1000"),
    ("train.class_weights", "even", f"balanced or null or {MAPPING}, above 0 and at most 1000000"),
    ("train.class_weights", {"owl": 0}, f"balanced or null or {MAPPING}, above 0"),
    ("train.class_weights", {"owl": -2.5}, f"balanced or null or {MAPPING}, above 0"),
    ("train.class_weights", {"owl": "2"}, f"balanced or null or {MAPPING}, above 0"),
    ("train.sampling", "even", "one of shuffle, balanced"),
    ("regularizer.spatial_entropy.weight", -0.1, "number, at least 0 and at most 1000"),
    ("regularizer.spatial_entropy.layers", "first", "one of last, last_two, last_three, last_four, all or a list of"),
    ("regularizer.spatial_entropy.layers", ["last"], "one of last, last_two, last_three, last_four, all or a list of"),
    ("regularizer.spatial_entropy.threshold", 6, "number, at least -5 and at most 5"),
    ("regularizer.spatial_entropy.connectivity", 6, "one of 4, 8"),
    ("regularizer.spatial_entropy.query", "patch", "one of cls, mean"),
    ("regularizer.spatial_entropy.schedule", "cosine", "one of warmup_cosine, warmup_linear, constant"),
    ("regularizer.spatial_entropy.watch", 1, "true or false"),
    ("regularizer.total_variation.weight", -1, "number, at least 0 and at most 1000"),
    ("regularizer.head_disagreement.layers", "first", "one of last, last_two, last_three, last_four, all or a list of"),
    ("regularizer.relative_localisation.pairs", 0, "whole number, at least 1 and at most 100000"),
    ("regularizer.relative_localisation.form", "release", "one of paper, code"),
    ("regularizer.guided_transfer.source", 7, "text or null, length at least 1 and length at most 1000"),
    ("regularizer.guided_transfer.reduction", "max", "one of mean, sum"),
    ("regularizer.plugin", "", "text or null, length at least 1 and length at most 1000"),
    ("regularizer.plugin_weight", -0.5, "number, at least 0 and at most 1000000"),
    ("regularizer.plugin_options", 7, "a mapping of names to plain values"),
    ("search.space", "", "text, length at least 1"),
    ("search.trials", 0, "whole number or null, at least 1 and at most 1000000"),
    ("search.gpus_per_trial", -0.5, "number or null, at least 0 and at most 64"),
    ("search.sampler.name", "annealing", "one of local_gp, tpe, gp, random, grid, sobol"),
    ("search.scheduler.name", "pbt", "one of asha, asha_stopping, hyperband, median, none"),
    ("search.scheduler.reduction_factor", 1, "number, above 1 and at most 16"),
    ("search.objectives", [], "a list of some of val/accuracy, val/loss, val/balanced_accuracy, "),
    ("search.objectives", ["speed"], "a list of some of val/accuracy, val/loss, val/balanced_accuracy, "),
    ("search.constraints.max_parameters", 0, "number or null, at least 1 and at most 1000000000000000.0"),
    ("search.constraints.max_latency_ms", 0, "number or null, above 0 and at most 1000000000.0"),
    ("search.constraints.min_images_per_s", "many", "number or null, above 0 and at most 1000000000000.0"),
    ("search.constraints.min_attention_jaccard", 2, "number or null, above 0 and at most 1"),
    ("search.cluster.address", "", "text or null, length at least 1"),
    ("search.cluster.storage", 7, "text or null, length at least 1"),
    ("search.cluster.ship_limit_mb", -1, "whole number, at least 0 and at most 1000000"),
    ("retrain.seeds", 1001, "auto or whole number, at least 1 and at most 1000"),
    ("retrain.seeds", "many", "auto or whole number, at least 1 and at most 1000"),
    ("retrain.max_seeds", 1, "whole number, at least 2 and at most 1000"),
    ("retrain.control", "", "text, length at least 1"),
    ("evaluate.confidence", 0.5, "number, above 0.5 and below 1"),
    ("evaluate.margin", 0, "number or null, above 0"),
    ("report.attention_images", 65, "whole number, at least 1 and at most 64"),
    ("promote.min_accuracy", 1.1, "number or null, at least 0 and at most 1"),
    ("promote.margin", 0, "number or null, above 0"),
    ("promote.confidence", 0.5, "number, above 0.5 and below 1"),
    ("promote.control", "worse", "one of not_worse, better, any"),
    ("promote.first_undecided", "ask", "one of accept, refuse"),
    ("promote.max_ece", -0.1, "number or null, at least 0 and at most 1"),
    ("promote.max_latency_ms", 0, "number or null, above 0 and at most 1000000"),
    ("register.name", "", "text or null, length at least 1 and length at most 200"),
    ("tracking.uri", 5, "text or null"),
    ("tracking.attention_images", -1, "whole number, at least 0 and at most 64"),
]


def test_refused_values_are_of_every_section() -> None:
    assert {path.split(".")[0] for path, _, _ in REFUSED} == {path.split(".")[0] for path in parameters()}


@pytest.mark.parametrize(("path", "value", "allowed"), REFUSED)
def test_value_that_is_not_allowed_is_told_with_file_path_given_and_allowed(
    written: Any, path: str, value: Any, allowed: str
) -> None:
    tree: Any = value
    for name in reversed(path.split(".")):
        tree = {name: tree}
    shown = repr(value) if isinstance(value, str) else json.dumps(value)
    first = refusal(written(json.dumps(tree))).splitlines()[0]
    assert first.startswith(f"params.yaml: {path}: given {shown}; allowed: {allowed}")


@pytest.mark.parametrize("parameter", ["evaluate.margin", "promote.margin"])
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1", "auroc"])
def test_points_that_are_given_for_a_share_are_refused_with_what_they_would_mean(
    written: Any, parameter: str, metric: str
) -> None:
    def given(margin: float, of: str) -> Path:
        tree: dict[str, dict[str, Any]] = {"evaluate": {"metric": of}, "promote": {}}
        section, _, name = parameter.partition(".")
        tree[section][name] = margin
        return written(json.dumps(tree))

    assert refusal(given(0.5, metric)) == (
        f"params.yaml: {parameter}: given 0.5; {metric} is a share of 1, so this means 50 points; needed: below 0.1. One "
        "point is 0.01; for 0.5 points write 0.005"
    )
    assert "write 0.001" in refusal(given(0.1, metric))
    assert load_params(given(0.099, metric)).value(parameter) == 0.099
    assert load_params(given(0.5, "log_loss")).value(parameter) == 0.5  # which may be of any size
    with pytest.raises(UserError, match=rf"--set: {parameter}: given 1; accuracy .* this means 100 points"):
        Params().with_values({parameter: 1}, where="--set")


def test_percents_that_are_given_for_a_share_are_refused_with_the_share(written: Any) -> None:
    for path, given, share in [
        ("evaluate.confidence", 95, 0.95),
        ("promote.min_accuracy", 90, 0.9),
        ("promote.max_ece", 5, 0.05),
        ("split.test_fraction", 20, 0.2),
        ("search.max_empty_share", 2.5, 0.025),
    ]:
        section, name = path.split(".")
        said = refusal(written(json.dumps({section: {name: given}})))
        assert said.endswith(f"; a share of 1 is needed: for {given} % write {share}"), path
    assert refusal(written("promote: {min_metric: 95}")) == (
        "params.yaml: promote.min_metric: given 95; accuracy lies between 0 and 1; a share of 1 is needed: for 95 % write "
        "0.95"
    )
    assert load_params(written("{evaluate: {metric: log_loss}, promote: {min_metric: 1.5}}")).promote.min_metric == 1.5
    for text in ("promote: {max_ece: true}", "promote: {max_ece: -0.1}", "train: {epochs: 0}", "train: {lr: 50}"):
        assert "for " not in refusal(written(text))


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e999"])
@pytest.mark.parametrize("path", ["train.lr", "train.clip_grad", "regularizer.spatial_entropy.threshold"])
def test_number_that_is_not_finite_is_refused(written: Any, path: str, value: str) -> None:
    section, _, rest = path.partition(".")
    text = f"{section}:\n  " + rest.replace(".", ":\n    ") + f": {value}\n"
    assert f"params.yaml: {path}: given " in refusal(written(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("search: {sampler: {name: cmaes}}", "search.sampler.name: given 'cmaes'; CMA-ES has been taken out; set it to tpe or gp, which take any space"),
        ("search: {sampler: {name: noisy_gp}}", "search.sampler.name: given 'noisy_gp'; noisy_gp has been taken out; set it to local_gp, which learns from every epoch"),
        ("search: {scheduler: {name: pasha}}", "search.scheduler.name: given 'pasha'; PASHA has been taken out; set it to asha, or to asha_stopping, which has the same rungs"),
    ],
)  # fmt: skip
def test_name_that_has_been_taken_out_is_refused_with_another_one(written: Any, text: str, said: str) -> None:
    assert refusal(written(text)) == f"params.yaml: {said}"


def test_number_that_is_not_finite_is_refused_among_the_keywords_of_the_network_too(written: Any) -> None:
    assert 'model.kwargs: given {"mlp_ratio": NaN}' in refusal(written("model: {kwargs: {mlp_ratio: .nan}}\n"))


@pytest.mark.parametrize(
    "given", ["{owl: .inf}", "{owl: .nan}", "{3: 2.0}", "{null: 1.0}", "{owl: true}", "{owl: null}"]
)
def test_class_weights_are_finite_numbers_by_names_that_are_text(written: Any, given: str) -> None:
    assert "params.yaml: train.class_weights: given {" in refusal(written(f"train: {{class_weights: {given}}}\n"))
    named = load_params(written("train: {class_weights: {'3': 2, owl: 0.5}}\n")).train
    assert named.class_weights == named.config().class_weights == {"3": 2.0, "owl": 0.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("serch: {trials: 3}", "unknown parameter serch; did you mean search?"),
        ("search: {trails: 3}", "unknown parameter search.trails; did you mean search.trials?"),
        ("search: {schedular: {name: asha}}", "unknown parameter search.schedular; did you mean search.scheduler?"),
        ("search: {sampler: {nam: tpe}}", "unknown parameter search.sampler.nam; did you mean search.sampler.name?"),
        (
            "regularizer: {spatial_entropy: {treshold: 0.1}}",
            "unknown parameter regularizer.spatial_entropy.treshold; "
            "did you mean regularizer.spatial_entropy.threshold?",
        ),
        ("train: {up_epochs: 1}", "unknown parameter train.up_epochs; did you mean train.warmup_epochs?"),
        ("register_: {name: x}", "unknown parameter register_; did you mean register?"),
        ("base: {qqqqqqqqqqqqqqqq: 1}", "unknown parameter base.qqqqqqqqqqqqqqqq"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_name(written: Any, text: str, said: str) -> None:
    assert refusal(written(text)) == f"params.yaml: {said}"


def test_every_mistake_is_told_at_once(written: Any) -> None:
    lines = refusal(written("train: {lr: -1, epoch: 3}\nsearch: {trials: 0}\nbase: 7\n")).splitlines()
    assert lines == [
        "params.yaml: base: given 7; allowed: a mapping of names to values",
        "params.yaml: train.lr: given -1; allowed: number, above 0 and at most 10",
        "params.yaml: unknown parameter train.epoch; did you mean train.epochs?",
        "params.yaml: search.trials: given 0; allowed: whole number or null, at least 1 and at most 1000000",
    ]


def test_one_mistake_is_told_once(written: Any) -> None:
    assert len(refusal(written("regularizer: {spatial_entropy: {layers: [first]}}\n")).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "train: {foo: 1}",
        "regularizer: {spatial_entropy: {foo: 1}}",
        "banana: {lr: 1}",
        "search: {sampler: {banana: 1}}",
    ],
)
def test_unknown_key_that_is_near_nothing_gets_no_advice(written: Any, text: str) -> None:
    assert "did you mean" not in refusal(written(text))


@pytest.mark.parametrize(
    ("text", "meant"),
    [("lr: 0.1", "train.lr"), ("train: {trials: 3}", "search.trials"), ("sampler: {name: tpe}", "search.sampler")],
)
def test_key_in_the_wrong_place_is_told_its_own(written: Any, text: str, meant: str) -> None:
    assert refusal(written(text)).endswith(f"; did you mean {meant}?")


def test_keyword_of_the_network_that_is_wrong_is_the_one_that_is_shown(written: Any) -> None:
    said = refusal(written("model: {kwargs: {depth: 4, num_heads: [[4]]}}\n"))
    assert said.startswith(
        'params.yaml: model.kwargs: given {"num_heads": [[4]]}; allowed: a mapping of names to plain'
    )


def test_keyword_of_the_network_may_be_a_list_of_whole_numbers(written: Any) -> None:
    params = load_params(written("model: {kwargs: {depths: [2, 2], window_size: 6}}\n"))
    assert params.model.config().kwargs == {"depths": [2, 2], "window_size": 6}
    assert "given" in refusal(written("model: {kwargs: {depths: [2, two]}}\n"))
    assert "given" in refusal(written("model: {kwargs: {depths: [2, 1.5]}}\n"))


@pytest.mark.parametrize("text", ["[1, 2]\n", "digits\n", "7\n"])
def test_file_that_is_no_mapping_is_refused(written: Any, text: str) -> None:
    assert "a mapping of sections is needed" in refusal(written(text))


def test_section_without_content_is_refused(written: Any) -> None:
    assert refusal(written("train:\n")) == "params.yaml: train: given null; allowed: a mapping of names to values"


def test_keys_that_are_no_text_are_refused(written: Any) -> None:
    assert refusal(written("train: {1: 2}\n")) == "params.yaml: unknown parameter train.1"
    assert refusal(written("? [1, 2]\n: 3\n")) == "params.yaml: unknown parameter [1, 2]"
    assert refusal(written("base: {? }\n")) == "params.yaml: unknown parameter base.null"


@pytest.mark.parametrize(
    "text",
    [
        "model: {kwargs: {? [1, 2] : 3}}\n",
        "model: {kwargs: {2023-01-01: 3}}\n",
        "model: {kwargs: &itself {depth: *itself}}\n",
    ],
)
def test_value_that_cannot_be_shown_is_told_all_the_same(written: Any, text: str) -> None:
    assert refusal(written(text)).startswith("params.yaml: model.kwargs: given ")


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"k{number}: 1\n" for number in range(3000)),
        f"train: {{? {'x' * 100_000} : 1}}\n",
        f"train: {{lr: 1, lr: {'x' * 100_000}}}\n",
        f"base: !{'x' * 100_000} 1\n",
        f"prepare: {{root: {'x' * 100_000}}}\n",
        f"tracking: {{uri: {'x' * 100_000}}}\n",
        f"regularizer: {{spatial_entropy: {{layers: [{'a, ' * 20_000}]}}}}\n",
        "model:\n  kwargs:\n    k0: &a0 [1, 1]\n"
        + "".join(f"    k{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(40)),
        "model:\n  kwargs:\n    k0: &a0 [1]\n" + "".join(f"    k{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(2000)),
    ],
    ids=["keys", "key", "twice", "tag", "root", "uri", "list", "aliases that double", "aliases that nest"],
)
def test_message_is_short_however_much_is_wrong(written: Any, text: str) -> None:
    said = refusal(written(text))
    assert len(said) < 1000
    assert len(said.splitlines()) <= 12


@pytest.mark.parametrize("name", ["a\\nb", "a\\e[31mb", "a\\u2028b", " a"])
def test_key_that_would_spoil_the_line_is_quoted(written: Any, name: str) -> None:
    said = refusal(written(f'"{name}": 1\n'))
    assert said.startswith("params.yaml: unknown parameter '")
    assert said.isprintable()


def test_long_value_is_shown_shortened(written: Any) -> None:
    assert len(refusal(written(f"base: {{device: {'x' * 5000}}}\n"))) < 200


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("base:\n  seed: 0\ntrain: {lr: 0.1\n", 4),
        ("base:\n  seed: 0\n\tdevice: cpu\n", 3),
        ("base: {seed: 0}\ntrain: {lr: *peak}\n", 2),
        ("base: {seed: 0}\n---\nbase: {seed: 1}\n", 2),
        ("base: !!python/object/apply:os.getcwd []\n", 1),
        ("base:\n  seed: 0x1" + "0" * 5000, 2),
        ("base:\n  seed: 1" + "0" * 5000, 2),
        ("base:\n  seed: 2023-13-45\n", 2),
        ("base:\n  seed: !!int ''\n", 2),
        ("base:\n  seed: !!bool perhaps\n", 2),
        ('model:\n  name: "\\ud800"\n', 2),
        ('search:\n  space: "a\\0b"\n', 2),
        ("base:\n  seed: 0\n  device: \x7f\n", 3),
    ],
)
def test_broken_yaml_is_told_with_its_line(written: Any, text: str, line: int) -> None:
    path = written(text)
    assert refusal(path).startswith(f"{path}, line {line}: not valid YAML: ")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("base: {seed: 0}\n---\ntrain: {}\n", "remove the line ---"),
        ("base:\n\tseed: 0\n", "indent by spaces, not by tabs"),
        ("base: !mine 1\n", "tags (!) other than YAML's own are not accepted"),
        ("base:\n  seed: 0\n    device: cpu\n", "is the indentation right"),
        ("base: {seed: 2023-13-45}\n", "if it is text, put it in quotes"),
    ],
)
def test_broken_yaml_is_told_with_what_to_do(written: Any, text: str, advice: str) -> None:
    assert advice in refusal(written(text))


def test_anchor_that_stands_there_twice_is_the_last_one_before_its_alias(written: Any) -> None:
    params = load_params(written("base: {seed: &n 3}\ntrain: {epochs: &n 5, batch_size: *n}\n"))
    assert (params.base.seed, params.train.epochs, params.train.batch_size) == (3, 5, 5)


def test_file_that_is_nested_without_end_is_told(written: Any) -> None:
    assert "are nested too deep" in refusal(written("[" * 3000))


def test_duplicate_keys_are_refused(written: Any) -> None:
    path = written("train:\n  lr: 0.1\n  epochs: 3\n  lr: 0.2\n")
    assert refusal(path).startswith(f'{path}, line 4: not valid YAML: found duplicate key "lr"')


def test_file_that_is_not_utf8_is_told(written: Any) -> None:
    path = written("base: {seed: 0}\nmodel: {name: \xfc}\n".encode("latin-1"))
    assert refusal(path) == f"{path}, line 2: cannot be read: byte 0xfc is not UTF-8; save it as UTF-8 text"


def test_file_with_a_mark_is_read_and_one_that_dvc_cannot_read_is_told(written: Any) -> None:
    assert load_params(written("base: {seed: 3}\n".encode("utf-8-sig"))).base.seed == 3
    path = written("base: {seed: 3}\n".encode("utf-16"))
    assert refusal(path) == f"{path}, line 1: cannot be read: it is UTF-16-LE; save it as UTF-8 text"
    assert read_yaml(path) == {"base": {"seed": 3}}  # a search space, which DVC does not read


def test_file_with_control_characters_is_told(written: Any) -> None:
    path = written(b"base: {device: \x00}\n")
    assert "not valid YAML" in refusal(path)


def test_file_that_is_not_there_is_told_with_where_to_go(tmp_path: Path) -> None:
    assert "no such file. Run this in the folder that holds dvc.yaml" in refusal(tmp_path / "params.yaml")


def test_folder_instead_of_a_file_is_told(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)


HOME_PATHS = (
    *("prepare.root", "prepare.class_list", "model.pretrained", "regularizer.guided_transfer.source"),
    *("search.space", "search.warm_start", "search.cluster.storage", "split.group_by"),
)


@pytest.mark.parametrize("path", HOME_PATHS)
def test_a_tilde_is_the_home_folder_in_every_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    *parents, leaf = path.split(".")
    tree: dict[str, Any] = {leaf: "~/mine.csv"}
    for key in reversed(parents):
        tree = {key: tree}
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps(tree))
    assert load_params(file).value(path) == "/home/ann/mine.csv"
    assert Params().with_values({path: "~/mine.csv"}, where="--set").value(path) == "/home/ann/mine.csv"
    with pytest.raises(UserError, match=f"{path}: given '~nobody-here/mine.csv'; ~nobody-here is nobody's home"):
        Params().with_values({path: "~nobody-here/mine.csv"}, where="--set")


def test_every_parameter_that_may_be_a_path_knows_the_tilde() -> None:
    """By what is said of it; tracking.uri is read where addresses are."""
    said = ("file", "folder", "Folder", "File")
    named = {path for path, field in parameters().items() if any(word in (field.description or "") for word in said)}
    text = {path for path in named if "str" in str(parameters()[path].annotation)}
    assert text - set(HOME_PATHS) <= {"prepare.dataset", "tracking.uri", "search.cluster.address", "model.name"}


def test_a_pattern_that_begins_with_a_tilde_is_no_path() -> None:
    assert Params().with_values({"split.group_by": "~([a-z]+)-"}, where="the test").split.group_by == "~([a-z]+)-"
