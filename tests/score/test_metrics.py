"""Claims about metrics: their values and pseudo-values are those of the definitions, image by image left out."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import Params
from pipeline.config.schema.result_sections import METRIC_NAMES
from pipeline.errors import UserError
from pipeline.score.classify import classification_scores
from pipeline.score.comparison import compare_arms, compare_scores
from pipeline.score.metrics.chosen_metric import chosen_metric, find_metric
from pipeline.score.metrics.jackknife import grouped_pseudo_values
from pipeline.score.metrics.metric import ACCURACY, AUROC, BALANCED_ACCURACY, LOG_LOSS, MACRO_F1, METRICS, Metric

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def slow_recall(shares: Floats, labels: Labels, label: int) -> float:
    own = [row.argmax() == label for row, each in zip(shares, labels, strict=True) if each == label]
    return float(sum(own) / len(own))


def slow_f1(shares: Floats, labels: Labels, label: int) -> float:
    guesses = [int(row.argmax()) for row in shares]
    hits = sum(guess == label and each == label for guess, each in zip(guesses, labels, strict=True))
    found, there = sum(guess == label for guess in guesses), sum(each == label for each in labels)
    precision, recall = hits / found if found else 0.0, hits / there
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def slow_area(shares: Floats, labels: Labels, label: int) -> float:
    inside = [row[label] for row, each in zip(shares, labels, strict=True) if each == label]
    outside = [row[label] for row, each in zip(shares, labels, strict=True) if each != label]
    if not inside or not outside:
        return math.nan
    ordered = sum((one > other) + (one == other) / 2 for one in inside for other in outside)
    return float(ordered / len(inside) / len(outside))


def slow_value(name: str, shares: Floats, labels: Labels) -> float:
    """The metric by its definition, in loops."""
    if name == "accuracy":
        return float(sum(row.argmax() == each for row, each in zip(shares, labels, strict=True)) / len(labels))
    if name == "log_loss":
        return -sum(math.log(row[each]) for row, each in zip(shares, labels, strict=True)) / len(labels)
    each_class: Callable[[Floats, Labels, int], float] = {
        "balanced_accuracy": slow_recall,
        "macro_f1": slow_f1,
        "auroc": slow_area,
    }[name]
    if name == "auroc" and shares.shape[1] == 2:
        return slow_area(shares, labels, 1)
    found = [each_class(shares, labels, int(label)) for label in np.unique(labels)]
    return sum(found) / len(found)


def slow_pseudo_values(name: str, shares: Floats, labels: Labels) -> Floats:
    """By leaving out every image in its turn; shifted so that their mean is the value."""
    images, value = len(labels), slow_value(name, shares, labels)
    without = [slow_value(name, np.delete(shares, each, axis=0), np.delete(labels, each)) for each in range(images)]
    plain = images * value - (images - 1) * np.array(without)
    return np.asarray(plain - plain.mean() + value)


def predictions(rng: np.random.Generator, images: int, classes: int, *, ties: bool = False) -> Floats:
    if ties:  # a few values that float64 has exactly, so that sums are exact and ties stay ties
        return rng.multinomial(8, np.ones(classes) / classes, size=images) / 8
    return rng.dirichlet(np.ones(classes) * 0.7, size=images)


def nasty_sets(rng: np.random.Generator) -> list[tuple[Floats, Labels]]:
    sets = []
    for images, classes in ((2, 2), (3, 2), (5, 3), (9, 4), (17, 2), (40, 3), (41, 7)):
        for ties in (False, True):
            shares = predictions(rng, images, classes, ties=ties)
            sets.append((shares, rng.integers(classes, size=images)))
            sets.append((shares, np.minimum(rng.geometric(0.7, size=images) - 1, classes - 1)))  # rare, absent classes
            sets.append((shares, shares.argmax(axis=1)))  # all right
            sets.append((np.tile(shares[:1], (images, 1)), rng.integers(classes, size=images)))  # all the same
    sets.append((predictions(rng, 6, 3), np.full(6, 2)))  # one class alone
    sets.append((predictions(rng, 4, 5), np.array([0, 1, 2, 3])))  # every class a single image
    return sets


@pytest.mark.parametrize("name", METRICS)
def test_values_and_pseudo_values_are_those_of_leaving_images_out(name: str) -> None:
    rng, metric, compared = np.random.default_rng(3), METRICS[name], 0
    for shares, labels in nasty_sets(rng):
        if name == "log_loss":
            shares = np.where(shares == 0, 0.125, shares)
            shares /= shares.sum(axis=1, keepdims=True)
        value = slow_value(name, shares, labels)
        np.testing.assert_allclose(metric.value_of(shares, labels), value, rtol=1e-12, atol=1e-12)
        found, expected = metric.pseudo_values_of(shares, labels), slow_pseudo_values(name, shares, labels)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
        if not math.isnan(value) and not np.isnan(expected).any():
            assert found.mean() == pytest.approx(value, abs=1e-9)
            compared += 1
    assert compared > 20


def test_means_over_images_are_their_own_pseudo_values_and_accuracy_compares_as_it_always_did() -> None:
    rng = np.random.default_rng(4)
    labels, runs = rng.integers(5, size=90), [predictions(rng, 90, 5) for _ in range(6)]
    tables = ACCURACY.tables({"best": np.stack(runs[:3]), "control": np.stack(runs[3:])}, labels)
    assert tables is not None
    correct = [np.stack([run.argmax(1) == labels for run in part]) for part in (runs[:3], runs[3:])]
    for shared in (True, False):
        found = compare_scores(tables["best"], tables["control"], shared_seeds=shared)
        assert found == compare_arms(*correct, shared_seeds=shared)
    scores = classification_scores(runs[0], labels)
    assert ACCURACY.value_of(runs[0], labels) == scores.accuracy
    assert BALANCED_ACCURACY.value_of(runs[0], labels) == pytest.approx(scores.balanced_accuracy, abs=1e-15)
    assert LOG_LOSS.value_of(runs[0], labels) == scores.nll


def test_metrics_known_by_name_are_those_of_the_parameter() -> None:
    assert set(METRIC_NAMES) == set(METRICS)


@pytest.mark.parametrize("name", [*METRICS])
def test_in_folds_what_ranks_images_is_had_of_every_fold_and_the_rest_of_all_of_them(name: str) -> None:
    rng = np.random.default_rng(4)
    metric = METRICS[name]
    folds = np.repeat([2, 0, 1], [9, 14, 11])
    for classes in (2, 3):
        shares = predictions(rng, len(folds), classes)
        labels = np.concatenate([np.arange(count) % classes for count in (9, 14, 11)])
        found = metric.pseudo_values_of(shares, labels, folds)
        if name != "auroc":
            np.testing.assert_array_equal(found, metric.pseudo_values_of(shares, labels))
            assert metric.value_of(shares, labels, folds) == pytest.approx(slow_value(name, shares, labels), rel=1e-12)
            continue
        expected = 0.0
        for number in range(3):
            own = folds == number
            expected += own.sum() / len(folds) * slow_value(name, shares[own], labels[own])
            np.testing.assert_array_equal(found[own], metric.pseudo_values_of(shares[own], labels[own]))
        assert metric.value_of(shares, labels, folds) == pytest.approx(expected, rel=1e-12)
        assert found.mean() == pytest.approx(expected, rel=1e-12)
        # Scores that another network has on another scale change nothing within its fold.
        squashed = np.where((folds == 1)[:, None], shares**3, shares)
        squashed /= squashed.sum(axis=1, keepdims=True)
        if classes == 2:
            assert metric.value_of(squashed, labels, folds) == pytest.approx(expected, rel=1e-12)


def test_auroc_of_two_classes_is_of_the_second_and_of_its_order_alone() -> None:
    rng = np.random.default_rng(5)
    shares, labels = predictions(rng, 50, 2), rng.integers(2, size=50)
    warped = shares[:, 1] ** 3
    assert AUROC.value_of(np.stack([1 - warped, warped], axis=1), labels) == AUROC.value_of(shares, labels)
    assert AUROC.value_of(shares, (shares[:, 1] > 0.4).astype(np.int64)) == 1
    assert AUROC.value_of(np.full((50, 2), 0.5), labels) == 0.5


def test_variance_of_auroc_is_delongs() -> None:
    rng = np.random.default_rng(6)
    shares, labels = predictions(rng, 80, 2), (rng.random(80) < 0.3).astype(np.int64)
    inside, outside = shares[labels == 1, 1], shares[labels == 0, 1]
    order = (inside[:, None] > outside) + (inside[:, None] == outside) / 2
    delong = order.mean(axis=1).var(ddof=1) / len(inside) + order.mean(axis=0).var(ddof=1) / len(outside)
    found = AUROC.pseudo_values_of(shares, labels).var(ddof=1) / 80
    # The jackknife leaves out one image at a time, which makes it larger by about 1 / m of each part.
    assert found == pytest.approx(delong, rel=0.08)


def test_no_image_fewer_than_two() -> None:
    with pytest.raises(ValueError, match="at least two images"):
        MACRO_F1.pseudo_values_of([[0.5, 0.5]], [0])
    assert math.isnan(AUROC.value_of([[0.5, 0.5], [0.1, 0.9]], [1, 1]))


@pytest.mark.parametrize("name", ["accuracy", "macro_f1"])
def test_groups_of_one_image_leave_out_images(name: str) -> None:
    rng = np.random.default_rng(7)
    shares, labels = predictions(rng, 60, 3), rng.integers(3, size=60)
    metric = METRICS[name]
    found = grouped_pseudo_values(metric.value, shares, labels)
    np.testing.assert_allclose(found, metric.pseudo_values_of(shares, labels), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("images", [201, 359, 400, 1000, 1237])
def test_groups_tell_the_same_variance_as_images(images: int) -> None:
    rng = np.random.default_rng(images)
    shares, labels = predictions(rng, images, 3), rng.integers(3, size=images)
    ratios = []
    for metric in (ACCURACY, MACRO_F1, LOG_LOSS):
        found, plain = grouped_pseudo_values(metric.value, shares, labels), metric.pseudo_values_of(shares, labels)
        assert found.shape == (images,)
        assert found.mean() == pytest.approx(metric.value_of(shares, labels), abs=1e-9)
        ratios.append(found.var(ddof=1) / plain.var(ddof=1))
    # A variance from 200 groups scatters by sqrt(2 / 199), a tenth.
    assert np.abs(np.array(ratios) - 1).max() < 0.4


def test_groups_follow_from_the_labels_and_share_out_every_class() -> None:
    labels = np.random.default_rng(8).integers(4, size=1000)
    left_out: list[Labels] = []

    def metric(shares: Floats, kept: Labels) -> float:
        left_out.append(np.bincount(labels, minlength=4) - np.bincount(kept, minlength=4))
        return 0.0

    grouped_pseudo_values(metric, np.full((1000, 4), 0.25), labels)
    table = np.array(left_out[1:])
    assert table.shape == (200, 4)
    assert set(table.sum(axis=1)) == {5}
    assert (table.max(axis=0) - table.min(axis=0) <= 1).all()


MODULE = """
import statistics

import numpy as np


def recall_of_two(probabilities, labels):
    return (probabilities.argmax(axis=1)[labels == 2] == 2).mean()


recall_of_two.margin = 0.02
recall_of_two.in_points = True


def costs(probabilities, labels):
    labels += 1  # a copy, so that nothing else sees it
    return np.float32(probabilities[:, 0].sum() / len(labels))


costs.lower_is_better = True
costs.name = "cost of errors"


def middle(probabilities, labels):
    return statistics.median(probabilities.max(axis=1))


middle.smooth = False
middle.margin = 1.5


def in_percent(probabilities, labels):
    return 0.5


in_percent.margin = 2
in_percent.in_points = True


def breaks(probabilities, labels):
    return 1 / 0


def leaves(probabilities, labels):
    raise SystemExit(0)


def nothing(probabilities, labels):
    return None


def infinite(probabilities, labels):
    return np.nan


def badly(probabilities, labels):
    return 0.5


badly.margin = -1


def badly_named(probabilities, labels):
    return 0.5


badly_named.lower_is_better = "yes"


class Score:
    pass


number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "metrics_of_a_user"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_users_function_is_a_metric_as_it_declares_itself(module: str) -> None:
    rng = np.random.default_rng(9)
    shares, labels = predictions(rng, 50, 3), rng.integers(3, size=50)
    recall, costs = find_metric(f"{module}:recall_of_two"), find_metric(f"{module}:costs")
    assert (recall.key, recall.label, recall.margin, recall.in_points) == ("metric", "recall of two", 0.02, True)
    assert recall.value_of(shares, labels) == pytest.approx(slow_recall(shares, labels, 2))
    assert recall.pseudo_values_of(shares, labels).mean() == pytest.approx(slow_recall(shares, labels, 2))
    before = labels.copy()
    assert costs.value_of(shares, labels) == pytest.approx(shares[:, 0].mean(), rel=1e-6)
    assert (labels == before).all()
    assert (costs.label, costs.lower_is_better, costs.sign, costs.margin) == ("cost of errors", True, -1, None)
    middle = find_metric(f"{module}:middle")
    assert middle.pseudo_values is None
    assert middle.tables({"best": shares[None]}, labels) is None
    with pytest.raises(ValueError, match="is not smooth"):
        middle.pseudo_values_of(shares, labels)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("breaks", "fails on 4 images of 2 classes: ZeroDivisionError: division by zero"),
        ("leaves", "fails on 4 images of 2 classes: it calls sys.exit(0), which would end the whole run"),
        ("nothing", "gives null on 4 images of 2 classes; needed: a finite number"),
        ("infinite", "on 4 images of 2 classes; needed: a finite number"),
    ],
)
def test_a_function_that_gives_no_number_is_refused_in_a_sentence(module: str, name: str, said: str) -> None:
    metric = find_metric(f"{module}:{name}")
    with pytest.raises(UserError) as refused:
        metric.value_of(np.full((4, 2), 0.5), [0, 1, 0, 1])
    assert str(refused.value).startswith(f"params.yaml: evaluate.metric: {module}:{name} ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("recall", "has no recall; it defines recall_of_two, costs"),
        ("Score", "is the class Score; needed: one of accuracy, balanced_accuracy, macro_f1, auroc, log_loss, or"),
        ("number", "is a int; needed"),
        ("badly", "declares margin -1; needed: a number above 0"),
        ("in_percent", "declares in_points and margin 2, which means 200 points; needed: below 0.1 (0.01: one point)"),
        ("badly_named", "declares lower_is_better 'yes'; needed: True or False"),
    ],
)
def test_what_is_no_metric_is_refused_in_a_sentence(module: str, name: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        find_metric(f"{module}:{name}")
    assert str(refused.value).startswith(f"params.yaml: evaluate.metric: {module}:{name}")
    assert said in str(refused.value)


def test_unknown_module_is_named() -> None:
    with pytest.raises(UserError, match=r"evaluate\.metric: no_such_module_here:f: there is no module"):
        find_metric("no_such_module_here:f")


def chosen(**values: object) -> Metric:
    return chosen_metric(
        Params().with_values({f"evaluate.{name}": each for name, each in values.items()}, where="here")
    )


def test_margin_is_the_metrics_own_unless_it_is_given(module: str) -> None:
    assert chosen() == ACCURACY
    assert {name: chosen(metric=name).margin for name in METRICS} == {
        "accuracy": 0.01,
        "balanced_accuracy": 0.02,
        "macro_f1": 0.02,
        "auroc": 0.01,
        "log_loss": 0.02,
    }
    assert chosen(margin=0.03).margin == 0.03
    assert chosen(metric=f"{module}:middle").margin == 1.5
    assert chosen(metric=f"{module}:costs", margin=3.0).margin == 3.0
    with pytest.raises(UserError, match=r"evaluate\.margin: .*:costs declares no margin"):
        chosen(metric=f"{module}:costs")
    for parameter in ("evaluate.margin", "promote.margin"):
        params = Params().with_values({"evaluate.metric": f"{module}:recall_of_two", parameter: 0.5}, where="here")
        with pytest.raises(UserError, match=rf"{parameter}: given 0.5; recall of two is a share of 1.* 50 points"):
            chosen_metric(params)
