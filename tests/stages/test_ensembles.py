"""Claims about ensembles of the seeds: the mean of probabilities decides, and the interval is of the images alone."""

import numpy as np
import pytest
from support.partial_results import filled

from pipeline.artifacts.evaluation import Ensembles
from pipeline.artifacts.evaluation_words import describe_ensembles
from pipeline.score.metrics.metric import LOG_LOSS, METRICS
from pipeline.score.paired_test import paired_difference, paired_score_difference
from pipeline.stages.evaluate.ensembles import compare_ensembles


def probabilities(seeds: int, images: int, classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes) * 0.5, size=(seeds, images)).astype(np.float32)


@pytest.mark.parametrize(("seeds", "others"), [(2, 2), (5, 5), (3, 2)])
def test_an_ensemble_is_right_where_the_mean_of_its_seeds_is(seeds: int, others: int) -> None:
    """Against a loop over images."""
    best, control = probabilities(seeds, 40, 3, 0), probabilities(others, 40, 3, 1)
    labels = np.random.default_rng(2).integers(3, size=40)
    found = compare_ensembles(best, control, labels, confidence=0.9)
    assert found is not None
    right: dict[str, list[bool]] = {"best": [], "control": []}
    for name, arm in (("best", best), ("control", control)):
        for image, label in enumerate(labels):
            means = [sum(float(row[image][each]) for row in arm) / len(arm) for each in range(3)]
            right[name].append(means.index(max(means)) == label)
        assert getattr(found, name).accuracy == pytest.approx(sum(right[name]) / 40, abs=1e-12)
        assert getattr(found, name).seeds == len(arm)
    pair = paired_difference(right["best"], right["control"], confidence=0.9)
    assert [found.difference, found.low, found.high] == [pair.difference, pair.low, pair.high]
    assert (found.only_best, found.only_control) == (pair.only_first, pair.only_second)


def test_seeds_that_are_alone_wrong_are_right_together() -> None:
    sure, unsure = [0.9, 0.05, 0.05], [0.4, 0.5, 0.1]
    best = np.array([[sure], [unsure], [unsure]])
    found = compare_ensembles(best, np.array([[unsure], [unsure]]), np.array([0]), confidence=0.95)
    assert found is not None
    assert (found.best.accuracy, found.control.accuracy) == (1.0, 0.0)


@pytest.mark.parametrize(("seeds", "others"), [(1, 1), (1, 4), (4, 1)])
def test_one_seed_is_no_ensemble(seeds: int, others: int) -> None:
    labels = np.zeros(6, np.int64)
    assert (
        compare_ensembles(probabilities(seeds, 6, 2, 0), probabilities(others, 6, 2, 1), labels, confidence=0.9) is None
    )


def test_the_sentence_speaks_of_these_two_ensembles() -> None:
    content = {"difference": 0.0084, "low": -0.004, "high": 0.0201, "confidence": 0.95}
    assert describe_ensembles(filled(Ensembles, **content)) == (
        "These two ensembles (each the mean of its seeds' probabilities) differ by +0.8 points (95 % interval -0.4 to "
        "+2.0 points, of the images alone: other seeds would make two others). The verdict is of single networks, and so is the "
        "registered model."
    )


@pytest.mark.parametrize("name", [name for name in METRICS if name != "accuracy"])
def test_by_another_metric_the_interval_is_of_its_pseudo_values(name: str) -> None:
    metric, labels = METRICS[name], np.random.default_rng(2).integers(3, size=40)
    best, control = probabilities(3, 40, 3, 0), probabilities(2, 40, 3, 1)
    found = compare_ensembles(best, control, labels, confidence=0.9, metric=metric)
    assert found is not None
    means = [arm.astype(float).mean(axis=0) for arm in (best, control)]
    values = [metric.value_of(mean, labels) for mean in means]
    assert [arm.value(metric.words) for arm in (found.best, found.control)] == pytest.approx(values)
    assert found.difference == pytest.approx(values[0] - values[1])
    pair = paired_score_difference(*(metric.pseudo_values_of(mean, labels) for mean in means), confidence=0.9)
    assert (found.low, found.high) == (pytest.approx(pair.low), pytest.approx(pair.high))
    assert found.best.seeds == 3


def test_the_sentence_names_another_metric() -> None:
    content = {
        "difference": -0.0084,
        "low": -0.021,
        "high": 0.004,
        "confidence": 0.95,
        "metric": LOG_LOSS.words.content(),
    }
    assert "differ by -0.008 in log loss (95 % interval -0.021 to +0.004, of the images alone" in describe_ensembles(
        filled(Ensembles, **content)
    )
    without = describe_ensembles(filled(Ensembles, **content | {"low": None, "high": None}))
    assert without.endswith(
        "differ by -0.008 in log loss. The verdict is of single networks, and so is the registered model."
    )
