"""What `evaluate` does about masks: whether they are usable, the head that val picks, baselines, and the table by class."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.partial_results import filled

from pipeline.artifacts.evaluation import Evaluation
from pipeline.score.comparison import compare_arms, compare_scores
from pipeline.score.endpoints import endpoint_names
from pipeline.score.locate import location_scores
from pipeline.score.metrics.metric import METRICS
from pipeline.stages.evaluate.attention_scores import (
    COMPARED,
    LOCATION,
    baselines,
    class_rows,
    differences,
    locate,
    usable_masks,
    write_class_rows,
)
from pipeline.stages.evaluate.scores import RunEvaluation, flat_metrics, summarise


def summarised(*given: Any, **asked: Any) -> dict[str, Any]:
    """What `summarise` finds, as mappings."""
    found = summarise(*given, **asked)
    return {**found.compared.content(), "scores": found.tables, "attention_by_class": found.class_rows}


def _data(masks: Any = None, **more: Any) -> Any:
    split = SimpleNamespace(val=np.array([0, 1]), test=np.array([2, 3]))
    return SimpleNamespace(prepared=SimpleNamespace(masks=masks, **more), split=split)


def _masks(*names: str) -> Any:
    kinds = {"both": [[0, 1]], "object": [[1, 1]], "background": [[0, 0]], "undecided": [[255, 255]]}
    return np.array([kinds[name] for name in names], dtype=np.uint8)


@pytest.mark.parametrize(
    "names",
    [
        ("object", "background", "both", "both"),
        ("both", "both", "undecided", "object"),
        ("undecided", "undecided", "undecided", "undecided"),
    ],
)
def test_masks_without_object_and_background_in_val_and_test_are_not_scored(names: tuple[str, ...]) -> None:
    assert usable_masks(_data(_masks(*names))) is None


def test_masks_are_scored_when_one_in_val_and_one_in_test_hold_both() -> None:
    masks = _masks("both", "undecided", "background", "both")
    found = usable_masks(_data(masks))
    assert found is not None
    np.testing.assert_array_equal(found[0], masks[:2])
    np.testing.assert_array_equal(found[1], masks[2:])
    assert usable_masks(_data()) is None


def _maps(*rows: list[list[float]]) -> Any:
    """Maps of two heads on a grid of 1 x 2."""
    return np.array(rows, dtype=np.float32)[:, :, None, :]


def test_head_is_picked_on_val_and_scored_on_test() -> None:
    left, right = [1.0, 0.0], [0.0, 1.0]
    masks = _masks("both", "both"), _masks("both", "both")  # the object is right
    scores = locate(_maps([left, right], [left, right]), _maps([right, left], [left, right]), masks)
    assert scores.head == 1
    assert scores.pointing_game == 0.5  # the best head of each image would have 1
    assert scores.pointing_game_best_head == 1.0
    trivial = baselines(_maps([left, right], [left, right]), masks, seed=0)
    assert list(trivial) == ["random", "uniform", "centre", "all_on"]
    assert len(trivial["uniform"].head_auroc) == 2


ASKED: dict[str, Any] = {"control": "plain", "confidence": 0.95, "margin": 0.01, "seed": 0, "what": "SAR", "against": "plain"}  # fmt: skip


def _run(arm: str, seed: int, maps: Any, masks: Any) -> RunEvaluation:
    probabilities = np.array([[0.9, 0.1], [0.2 * seed, 1 - 0.2 * seed]], dtype=np.float32)
    location = None if masks is None else locate(maps, maps, masks)
    return RunEvaluation(f"{arm}-seed{seed}", arm, seed, probabilities, maps, location)


def test_summary_holds_the_scores_of_both_arms_with_baselines_and_a_table_by_class() -> None:
    rng = np.random.default_rng(0)
    masks = rng.choice([0, 1], size=(4, 6, 6)).astype(np.uint8)
    masks[2] = 255
    data = _data(masks, labels=np.array([0, 1, 0, 1]), classes=("cat", "dog"))
    found = usable_masks(data)
    runs = [_run(arm, seed, rng.normal(size=(2, 2, 3, 3)), found) for arm in ("best", "plain") for seed in (1, 2)]
    summary = summarised(runs, data, **ASKED)
    best, plain = summary["arms"]["best"], summary["arms"]["plain"]
    for arm, of_arm in ((best, runs[:2]), (plain, runs[2:])):
        assert set(arm["location"]) == set(LOCATION)
        for key in ("energy", "pointing_game"):
            assert arm["location"][key] == pytest.approx(np.mean([getattr(run.location, key) for run in of_arm]))
        assert arm["left_out"] == 1
    assert set(summary["baselines"]) == {"random", "uniform", "centre", "all_on"}
    share = (masks[3] == 1).mean()
    assert summary["baselines"]["uniform"]["energy"] == pytest.approx(share)
    assert summary["baselines"]["all_on"]["jaccard_fixed_head"] == pytest.approx(share)
    rows = summary["attention_by_class"]
    assert len(rows) == 6 * 2
    cat, dog = (row for row in rows if row["attention"] == "best")
    assert (cat["class"], cat["images"], cat["energy"]) == ("cat", 0, None)
    assert (dog["class"], dog["images"], dog["energy"]) == ("dog", 1, pytest.approx(best["location"]["energy"]))


def test_arms_are_compared_on_the_images_that_have_a_score_with_intervals_that_hold_together() -> None:
    rng = np.random.default_rng(1)
    masks = rng.choice([0, 1], size=(30, 4, 4)).astype(np.uint8)
    masks[3] = 255  # no score at all
    masks[4] = 1  # nothing to rank
    arms = [[location_scores(rng.normal(size=(30, 2, 4, 4)), masks, head=0) for _ in range(3)] for _ in range(2)]
    found = differences(*arms, confidence=0.9)
    assert list(found) == list(COMPARED)
    for key, left_out in (("energy", [3]), ("auroc", [3, 4])):
        best, control = (np.array([np.delete(run.per_image[key], left_out) for run in arm]) for arm in arms)
        alone = compare_arms(best, control, confidence=1 - 0.1 / len(COMPARED))
        assert found[key].content() == pytest.approx(
            {"difference": alone.difference, "low": alone.low, "high": alone.high}
        )
    assert differences([], [], confidence=0.9) == {}


def test_two_seeds_that_disagree_give_no_difference_of_attention_beyond_what_is_possible() -> None:
    masks = np.tile(np.array([[[0, 1]]], dtype=np.uint8), (30, 1, 1))
    on_object = np.tile(masks.astype(np.float32)[:, None], (1, 1, 1, 1))
    best = [location_scores(sign * on_object, masks, head=0) for sign in (1, -1)]
    control = [location_scores(on_object, masks, head=0) for _ in range(2)]
    found = differences(best, control, confidence=0.9)["auroc"]
    assert (found.difference, found.low, found.high) == (-0.5, -1.0, 0.0)


def test_set_without_masks_has_no_scores() -> None:
    data = _data(labels=np.array([0, 1, 0, 1]), classes=("cat", "dog"))
    maps = np.zeros((2, 1, 3, 3), dtype=np.float32)
    runs = [_run(arm, seed, maps, None) for arm in ("best", "plain") for seed in (1, 2)]
    summary = summarised(runs, data, **ASKED)
    assert summary["arms"]["best"]["location"] is summary["baselines"] is None
    assert summary["attention_by_class"] == []
    assert summary["attention_differences"] == {}
    assert [endpoint["name"] for endpoint in summary["endpoints"]] == ["accuracy_not_worse", "log_loss", "accuracy_higher", "accuracy_lower"]  # fmt: skip
    assert "Log loss" in summary["verdict"]


def _evaluated(seeds: tuple[list[int], list[int]], *, masked: bool) -> tuple[list[RunEvaluation], Any]:
    """Runs of both arms on forty test images, the networks of the best arm with the better attention."""
    rng = np.random.default_rng(3)
    data = _data(rng.choice([0, 1], size=(44, 6, 6)).astype(np.uint8) if masked else None, labels=rng.integers(0, 2, 44), classes=("cat", "dog"))  # fmt: skip
    data.split.val, data.split.test = np.arange(4), np.arange(4, 44)
    found = usable_masks(data)
    runs = []
    for arm, of_arm in zip(("best", "plain"), seeds, strict=True):
        for seed in of_arm:
            first = rng.random(40)
            probabilities = np.stack([first, 1 - first], axis=1).astype(np.float32)
            maps = rng.normal(size=(40, 1, 6, 6)).astype(np.float32)
            if found and arm == "best":
                maps += 2 * found[1][:, None]
            location = None if found is None else locate(maps[:4], maps, found)
            runs.append(RunEvaluation(f"{arm}-seed{seed}", arm, seed, probabilities, maps, location))
    return runs, data


def test_endpoints_are_of_tables_in_the_order_of_the_seeds() -> None:
    runs, data = _evaluated(([10, 9, 2], [2, 9, 10]), masked=True)
    summary = summarised(runs, data, **ASKED)
    assert summary["arms"]["best"]["seeds"] == summary["arms"]["plain"]["seeds"] == [2, 9, 10]
    assert summary["comparison"]["layout"] == "paired"
    assert json.loads(json.dumps(summary["endpoints"])) == summary["endpoints"]
    by_seed = {(run.arm, run.seed): run for run in runs}
    tables = [
        np.array([by_seed[arm, seed].location.per_image["auroc"] for seed in (2, 9, 10)]) for arm in ("best", "plain")
    ]  # type: ignore[union-attr]
    accuracy, attention = summary["endpoints"][:2]
    level = attention["level"]
    alone = compare_scores(*tables, confidence=level)
    assert attention["shown"]
    assert [attention["low"], attention["high"]] == pytest.approx([alone.low, alone.high])
    assert accuracy["name"] == "accuracy_not_worse"
    assert (
        f"Attention finds the object better: AUROC {tables[0].mean():.3f} against".replace(" 0.", " .")
        in summary["verdict"]
    )
    assert f"a Gaussian in the centre: .{100 * summary['baselines']['centre']['auroc']:.0f}" in summary["verdict"]
    assert summary["verdict"].endswith("SAR is compared with its control (plain): 3 seeds each on 40 test images.")


def test_log_loss_is_compared_image_by_image_where_there_are_no_masks() -> None:
    runs, data = _evaluated(([1, 2, 3], [1, 2, 3]), masked=False)
    summary = summarised(runs, data, **ASKED)
    labels = data.prepared.labels[data.split.test]
    tables = [
        np.array(
            [-np.log(run.probabilities[np.arange(40), labels].astype(np.float64)) for run in runs if run.arm == arm]
        )
        for arm in ("best", "plain")
    ]
    alone = compare_scores(*tables)
    found = summary["endpoints"][1]
    assert found["name"] == "log_loss"
    assert [found["difference"], found["low"], found["high"]] == pytest.approx(
        [alone.difference, alone.low, alone.high]
    )
    assert summary["arms"]["best"]["nll"] - summary["arms"]["plain"]["nll"] == pytest.approx(alone.difference)


@pytest.mark.parametrize("seeds", [([1, 2, 3], [1, 2]), ([1, 2], [1, 3])])
def test_seeds_that_are_not_shared_are_compared_as_independent(seeds: tuple[list[int], list[int]]) -> None:
    runs, data = _evaluated(seeds, masked=True)
    summary = summarised(runs, data, **ASKED)
    assert summary["comparison"]["layout"] == "independent"
    assert "compared as independent, on 40 test images" in summary["verdict"]


def test_table_by_class_is_written_as_csv_with_empty_fields_for_what_there_is_not(tmp_path: Path) -> None:
    masks = np.array([[[0, 1]], [[255, 255]]], dtype=np.uint8)
    scores = location_scores(np.log(_maps([[0.25, 0.75]], [[0.5, 0.5]])), masks, head=0)
    write_class_rows(tmp_path / "t.csv", class_rows({"best": [scores]}, np.array([1, 0]), ["cat", "dog"]))
    cat, dog = csv.DictReader((tmp_path / "t.csv").read_text().splitlines())
    assert (cat["class"], cat["images"], cat["energy"]) == ("cat", "0", "")
    assert (dog["attention"], dog["class"], dog["images"]) == ("best", "dog", "1")
    assert float(dog["energy"]) == pytest.approx(0.75)
    write_class_rows(tmp_path / "t.csv", [])
    assert (tmp_path / "t.csv").read_text().splitlines() == [",".join(["attention", "class", "images", *LOCATION])]


@pytest.mark.parametrize("name", [name for name in METRICS if name != "accuracy"])
@pytest.mark.parametrize("masked", [True, False])
def test_another_metric_is_what_the_arms_are_compared_by(name: str, masked: bool) -> None:
    runs, data = _evaluated(([1, 2, 3], [1, 2, 3]), masked=masked)
    metric, labels = METRICS[name], data.prepared.labels[data.split.test]
    summary = summarised(runs, data, **ASKED | {"margin": 0.03}, metric=metric)
    arms = {arm: [run.probabilities for run in runs if run.arm == arm] for arm in ("best", "plain")}
    tables = [np.stack([metric.pseudo_values_of(each, labels) for each in arm]) for arm in arms.values()]
    assert summary["comparison"] == asdict(compare_scores(*tables))
    np.testing.assert_array_equal(summary["scores"]["best"], tables[0])
    assert summary["metric"] == metric.words.content() | {"margin": 0.03}
    for arm, shares in arms.items():
        values = [metric.value_of(each, labels) for each in shares]
        assert summary["arms"][arm][f"{metric.key}_by_seed"] == pytest.approx(values)
        assert summary["arms"][arm][metric.key] == pytest.approx(np.mean(values))
        assert summary["arms"][arm][f"{metric.key}_sd"] == pytest.approx(np.std(values, ddof=1))
    not_worse, better, worse = endpoint_names(metric.words)
    second = ["attention_auroc"] if masked else [] if name == "log_loss" else ["log_loss"]
    assert [each["name"] for each in summary["endpoints"]] == [not_worse, *second, better, worse]
    assert summary["verdict"].startswith(f"{metric.words.title}: ")
    flat = flat_metrics(filled(Evaluation, **summary, control="plain")).test
    assert flat["difference"][metric.key] == summary["comparison"]["difference"]
    assert flat["best"][metric.key] == summary["arms"]["best"][metric.key]
    assert set(flat["best"]) >= {"accuracy", "nll", "ece", metric.key}
    assert not_worse in flat["shown"]


def test_a_metric_that_is_not_smooth_shows_nothing_and_says_why() -> None:
    runs, data = _evaluated(([1, 2], [1, 2]), masked=True)
    metric = replace(METRICS["macro_f1"], name="mine:score", key="metric", label="score", pseudo_values=None)
    summary = summarised(runs, data, **ASKED, metric=metric)
    assert summary["scores"] is summary["variance_parts"] is None
    assert summary["comparison"]["low"] is None
    assert "score is declared not smooth, so that no interval can be given, and nothing is shown." in summary["verdict"]
    assert not any(each["shown"] for each in summary["endpoints"] if each["name"].startswith("metric_"))
    assert summary["ensembles"]["low"] is None
