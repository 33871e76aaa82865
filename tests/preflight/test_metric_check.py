"""Claims about a metric that the test images cannot give: it is refused in a sentence before anything trains."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.search_state import make_workspace

from pipeline.config import Params
from pipeline.data.sources.source_config import Preview
from pipeline.data.splits.split import Split
from pipeline.errors import UserError
from pipeline.preflight import metric_check
from pipeline.preflight.metric_check import check_metric
from pipeline.preflight.power import check_seeds, describe_expectation, describe_power, make_forecast
from pipeline.score.metrics.label_check import check_labels
from pipeline.score.metrics.metric import MACRO_F1, METRICS
from pipeline.workspace import Workspace

SOURCE = Preview(images=20, classes=("a", "b"), channels=1)
WEIGHING = [name for name, metric in METRICS.items() if metric.by_class]
MODULE = """
def fails_on_few(probabilities, labels):
    assert (labels == 1).sum() > 2, "too few of class 1"
    return 0.5

fails_on_few.margin = 0.1

def of_two(probabilities, labels):
    if probabilities.shape[1] > 2:
        raise ValueError("two classes alone")
    return 0.5

of_two.margin = 0.1

def leaves_out(probabilities, labels):
    if len(labels) < 12:
        raise ValueError("a fold is too small")
    return float(len(labels))

leaves_out.margin = 0.1

def in_share(probabilities, labels):
    return 0.5

in_share.margin = 0.01
in_share.in_points = True
"""


def params(**settings: Any) -> Params:
    return Params().with_values({name.replace("__", "."): value for name, value in settings.items()}, where="test")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / "metrics_to_check.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return make_workspace(tmp_path)


@pytest.mark.parametrize("name", WEIGHING)
def test_few_images_of_a_class_give_no_interval(workspace: Workspace, name: str) -> None:
    with pytest.raises(UserError) as said:
        check_metric(workspace, params(evaluate__metric=name), SOURCE)
    assert str(said.value).startswith(
        f"params.yaml: evaluate.metric: {name} gets no interval from fewer than 5 test images"
    )
    assert "there are 2 of a, 2 of b. Have more test images (split.test_fraction)" in str(said.value)
    # Without an interval they do, and so does accuracy with one.
    check_metric(workspace, params(evaluate__metric=name, retrain__seeds=1), SOURCE)
    check_metric(workspace, params(), SOURCE)
    check_metric(workspace, params(evaluate__metric=name, split__test_fraction=0.5), SOURCE)


def test_what_ranks_images_is_asked_of_every_fold_and_counts_of_all_of_them(workspace: Workspace) -> None:
    few = {"evaluate__folds": 3, "split__duplicates": "ignore"}
    with pytest.raises(UserError) as said:
        check_metric(workspace, params(evaluate__metric="auroc", **few), SOURCE)
    message = str(said.value)
    assert "auroc gets no interval from fewer than 5 test images of a class in a fold" in message
    assert "Lower evaluate.folds" in message
    check_metric(workspace, params(evaluate__metric="macro_f1", **few), SOURCE)
    check_metric(workspace, params(evaluate__metric="auroc", retrain__seeds=1, **few), SOURCE)


def test_a_class_without_images_is_named_and_only_where_classes_are_weighed() -> None:
    labels = np.repeat([0, 2], 8)
    for name, metric in METRICS.items():
        if not metric.by_class:
            check_labels(metric, labels, ["cat", "dog", "emu"], interval=True)
            continue
        with pytest.raises(UserError, match=rf"{name} weighs every class alike, and no test image is of dog\."):
            check_labels(metric, labels, ["cat", "dog", "emu"], interval=False)
    with pytest.raises(UserError, match=r"no validation image is of dog\. Have more validation images \(split\.val_fr"):
        check_labels(METRICS["auroc"], labels, ["cat", "dog", "emu"], interval=False, role="validation")


def test_many_classes_are_not_all_named() -> None:
    with pytest.raises(UserError) as said:
        check_labels(
            METRICS["macro_f1"], np.zeros(9, np.int64), [f"class {each}" for each in range(900)], interval=True
        )
    assert "class 5 and 894 more." in str(said.value)


def test_a_users_function_is_tried_on_the_labels_of_the_test_images(workspace: Workspace) -> None:
    few, left = "metrics_to_check:fails_on_few", "metrics_to_check:leaves_out"
    with pytest.raises(UserError, match=r"fails on 4 images of 2 classes: AssertionError: too few of class 1"):
        check_metric(workspace, params(evaluate__metric=few), SOURCE)
    check_metric(workspace, params(evaluate__metric=few, split__test_fraction=0.5), SOURCE)
    # With an interval it is asked without some of them too.
    large = {"split__test_fraction": 0.6}
    with pytest.raises(UserError, match=r"fails on 11 images of 2 classes: ValueError: a fold is too small"):
        check_metric(workspace, params(evaluate__metric=left, **large), SOURCE)
    check_metric(workspace, params(evaluate__metric=left, retrain__seeds=1, **large), SOURCE)


def test_while_no_data_are_prepared_it_is_tried_on_as_many_images_of_every_class(workspace: Workspace) -> None:
    (workspace.state / "prepare" / "sources.json").write_text(json.dumps({}))
    check_metric(workspace, params(evaluate__metric="metrics_to_check:fails_on_few"), SOURCE)
    check_metric(workspace, params(evaluate__metric="macro_f1"), SOURCE)
    three = replace(SOURCE, classes=("a", "b", "c"))
    with pytest.raises(UserError, match=r"fails on 60 images of 3 classes: ValueError: two classes alone"):
        check_metric(workspace, params(evaluate__metric="metrics_to_check:of_two"), three)


@pytest.mark.parametrize("parameter", ["evaluate__margin", "promote__margin"])
def test_a_margin_in_points_is_no_margin_of_a_share(workspace: Workspace, parameter: str) -> None:
    with pytest.raises(UserError, match=rf"{parameter.replace('__', '.')}: given 1; .*means 100 points"):
        check_metric(workspace, params(evaluate__metric="metrics_to_check:in_share", **{parameter: 1.0}), SOURCE)
    check_metric(workspace, params(evaluate__metric="log_loss", **{parameter: 1.0}), SOURCE)


def test_seeds_and_power_are_not_foretold_before_a_search_for_the_metric() -> None:
    by_f1 = params(evaluate__metric="macro_f1")
    nothing = make_forecast(by_f1, None, 300)
    (line,) = describe_power(by_f1, nothing, MACRO_F1.words, masks=False)
    assert line.startswith(
        "power     no forecast for macro-F1, since no configuration has been confirmed yet; a search for"
    )
    assert "no forecast for macro-F1" in describe_expectation(by_f1, nothing, 5, MACRO_F1.words)
    with pytest.raises(UserError, match=r"retrain\.seeds: auto derives .* or give a number of seeds"):
        check_seeds(params(evaluate__metric="macro_f1", retrain__seeds="auto"))
    check_seeds(params(retrain__seeds="auto"))


def test_what_is_searched_for_is_asked_of_the_validation_images(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_metric(workspace, params(search__choose__then="val/auroc"), SOURCE)
    one_class = Split(train=np.arange(0), val=np.arange(5), test=np.arange(20))
    monkeypatch.setattr(metric_check, "compute_split", lambda *_: one_class)
    with pytest.raises(
        UserError, match=r"search: val/auroc: auroc weighs every class alike, and no validation image is"
    ):
        check_metric(workspace, params(search__choose__then="val/auroc"), SOURCE)
    check_metric(workspace, params(search__choose__then="val/loss"), SOURCE)


def test_less_is_better_is_not_searched_for(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "metric_turned.py").write_text(
        "def cost(p, l):\n    return 1.0\ncost.lower_is_better = True\ncost.margin = 1\n"
    )
    turned = {"evaluate__metric": "metric_turned:cost", "retrain__seeds": 1}
    check_metric(workspace, params(**turned), SOURCE)
    with pytest.raises(UserError, match=r"search: val/metric: metric_turned:cost declares lower_is_better"):
        check_metric(workspace, params(**turned, search__choose__then="val/metric"), SOURCE)
