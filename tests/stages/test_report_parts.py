"""What the report says of the search and of the statistics, from the stages' own files."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.partial_results import filled

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.evaluations import correct_by_arm, probabilities_by_arm
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.search_result import SearchSummary
from pipeline.artifacts.stage_results import NAMES, describe_control, describe_method
from pipeline.regularizers.registry import METHODS
from pipeline.score.comparison import clip_to_possible, compare_arms, compare_scores
from pipeline.score.endpoints import decide_endpoints
from pipeline.score.metrics.metric import METRICS
from pipeline.score.metrics.wording import ACCURACY_WORDS
from pipeline.score.verdict import possible_endpoints
from pipeline.stages.report.fold_content import describe_folds, registered_remarks
from pipeline.stages.report.search_content import (
    describe_cost,
    describe_other_work,
    early_remarks,
    health_remarks,
    note_on_figures,
    plotted_trials,
    search_curves,
    search_figures,
    trial_rows,
    usage_rows,
)
from pipeline.stages.report.statistics import class_figure, class_rows, describe_analysis, describe_levels
from pipeline.tune.journal.records import MIN_COMPLETED

WEIGHT = "regularizer.spatial_entropy.weight"


def row(trial: str, role: str, state: str, epochs: int, accuracy: float | None, weight: float) -> dict[str, str]:
    study = {"trial": "search", "control trial": "control_study"}.get(role, "")
    return {
        "trial": trial,
        "role": role,
        "study": study,
        "seed": "0",
        "state": state,
        "epochs": str(epochs),
        "val/accuracy": "" if accuracy is None else str(accuracy),
        "val/loss": "",
        "empty_share": "",
        WEIGHT: str(weight),
        "reason": "",
    }


ROWS = [
    row("baseline", "control", "complete", 4, 0.7, 0.0),
    row("t0000", "trial", "complete", 4, 0.8, 0.01),
    row("t0001", "trial", "complete", 4, 0.75, 0.5),
    row("t0002", "trial", "pruned", 2, 0.3, 0.1),
    row("t0003", "trial", "failed", 0, None, 0.2),
    row("baseline-seed1001", "confirmation", "complete", 4, 0.6, 0.0),
]
THREE = [*ROWS, row("t0004", "trial", "complete", 4, 0.7, 0.3)]
"""With one more trial that ran in full."""
CONTENT: dict[str, Any] = {
    "trials": {"complete": 2, "pruned": 1, "failed": 1},
    "confirmations": 1,
    "epochs": {"spent": 18, "saved_by_stopping": 2},
    "spent": {
        "hours": 0.5,
        "worker_hours": 1.0,
        "worker_hours_saved_by_stopping": 0.05,
        "gpu_hours": 0.0,
        "cost": None,
    },
}
SUMMARY = filled(SearchSummary, **CONTENT)


def predictions() -> dict[str, Any]:
    """Two seeds an arm on 6 images of classes 0, 0, 0, 1, 1, 2."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    guesses = {
        "best-seed1": [0, 0, 0, 1, 1, 2],
        "best-seed2": [0, 0, 1, 1, 0, 2],
        "plain-seed1": [0, 1, 1, 1, 1, 0],
        "plain-seed2": [0, 0, 1, 0, 1, 0],
    }
    return {"ids": np.arange(6), "labels": labels, **{name: np.eye(3)[guess] for name, guess in guesses.items()}}


def test_rows_are_trials_and_controls_without_confirmations() -> None:
    rows = trial_rows(ROWS, "val/accuracy")
    assert [each["trial"] for each in rows] == ["baseline", "t0000", "t0001", "t0002", "t0003"]
    assert [each["control"] for each in rows] == [True, False, False, False, False]
    assert rows[1]["parameters"] == {"spatial_entropy.weight": 0.01}
    assert rows[4]["value"] is None


def found_of(importances: dict[str, float], correlations: dict[str, Any], **further: Any) -> SearchSummary:
    scales = {"logarithmic": [WEIGHT]}
    return filled(SearchSummary, importances=importances, rung_correlations=correlations, **scales, **further)


def test_captions_say_over_which_trials_a_figure_speaks() -> None:
    found = search_figures(THREE, found_of({WEIGHT: 1.0}, {"2": {"correlation": 0.5, "trials": 3}}))
    captions = [caption for caption, _ in found]
    assert captions[0].startswith("Parallel coordinates of the 3 trials that ran in full,")
    assert "; grey: 1 stopped early." in captions[0]
    assert "of the 3 trials that ran in full; hollow: 1 stopped early" in captions[1]
    assert captions[2].startswith("Importances (PED-ANOVA) over the 3 trials that ran in full;")
    assert captions[3].startswith("Rung survival")
    assert "over the 3 trials that ran in full, so few that it says little: epoch 2: 0.50" in captions[3]
    assert captions[1].endswith("Importances are drawn from 10 on.")
    enough = [ROWS[1] | {"trial": f"t{index:04d}"} for index in range(MIN_COMPLETED)]
    captions = [
        caption
        for caption, _ in search_figures(enough, found_of({}, {"2": {"correlation": 0.5, "trials": MIN_COMPLETED}}))
    ]
    assert not any("drawn from" in caption or "says little" in caption for caption in captions)
    assert note_on_figures(THREE) == ""
    # Without any, nothing is claimed.
    assert search_figures(ROWS[:1], found_of({}, {})) == []


def test_two_trials_in_full_are_not_drawn_as_a_pattern_and_it_is_said() -> None:
    captions = [caption for caption, _ in search_figures(ROWS, found_of({}, {}))]
    assert [caption.split(":")[0] for caption in captions] == ["Rung survival"]
    said = "Parallel coordinates and slices are left out: {} ran in full, and with fewer than 3 they show no pattern."
    assert note_on_figures(ROWS) == said.format("2 trials")
    assert note_on_figures(ROWS[:2]) == said.format("1 trial")
    assert note_on_figures(ROWS[:1]) == said.format("no trial")


@pytest.mark.parametrize(
    ("images", "objective", "said"),
    [
        (10, "val/accuracy", " The values lie 1 validation image of 10 apart; the colours span 5."),
        (1000, "val/accuracy", None),
        (10, "val/macro_f1", None),
    ],
)
def test_one_validation_image_is_not_stretched_over_all_colours(images: int, objective: str, said: str | None) -> None:
    rows = [each | {"val/macro_f1": each["val/accuracy"]} for each in THREE]
    summary = found_of({}, {}, objective=objective, forecast={"images": images})
    caption, figure = search_figures(rows, summary)[0]
    low, high = figure.axes[1].get_ylim()
    assert high - low == pytest.approx(100 * (0.1 if said is None else 5 / images))
    assert caption.endswith(said or "stopped early.")


def test_another_first_objective_is_drawn_in_its_own_words_and_unit() -> None:
    rows = [each | {"val/macro_f1": each["val/accuracy"], "val/loss": each["val/accuracy"]} for each in THREE]
    for objective, words, label in (
        ("val/macro_f1", "validation macro-F1", "validation macro-F1 (%)"),
        ("val/loss", "validation loss", "validation loss"),
    ):
        (caption, parallel), (second, slices), *_ = search_figures(rows, found_of({}, {}, objective=objective))
        assert f"coloured by {words}" in caption
        assert second.startswith(f"Slices: {words} by parameter")
        assert slices.axes[0].get_ylabel() == label
        assert parallel.axes[1].get_ylabel() == label
        listed = trial_rows(rows, objective)
        assert listed[1]["value"] == float(ROWS[1]["val/accuracy"])
        assert objective not in listed[1]["parameters"]


def test_parameters_of_two_methods_that_end_alike_are_drawn_apart_each_on_its_own_scale() -> None:
    other = "regularizer.total_variation.weight"
    rows = [each | {other: str(index / 7)} for index, each in enumerate(THREE)]
    (_, parallel), (_, slices), *_ = search_figures(rows, found_of({}, {}))
    assert [axes.get_xlabel() for axes in slices.axes] == ["spatial_entropy.weight", "total_variation.weight"]
    assert [axes.get_xscale() for axes in slices.axes] == ["log", "linear"]
    assert len(parallel.axes[0].get_xticklabels()) == 3


def test_search_that_was_ended_early_says_after_how_many_trials() -> None:
    tried: dict[str, Any] = {"trials": {"complete": 6, "pruned": 3}, "trials_asked": 12}
    summary = filled(SearchSummary, stopped_by="sar-search stop --finish", **tried)
    assert early_remarks(summary) == ["The search was ended early by sar-search stop --finish, with 9 of 12 trials."]
    assert early_remarks(filled(SearchSummary, **tried)) == []


def test_health_of_the_search_is_among_the_remarks() -> None:
    found = {"name": "tie", "seen": "They tie.", "advice": "Take more seeds.", "kind": "alarm"}
    unknown = {"name": "rungs", "seen": "rungs (too few)", "advice": "", "kind": "unknown"}
    assert health_remarks(filled(SearchSummary, health=[found, unknown])) == [
        "The search's health: They tie. Take more seeds.",
        "The search's health: Not examined: rungs (too few).",
    ]
    assert health_remarks(filled(SearchSummary)) == []


def test_curves_take_confirmations_as_further_seeds() -> None:
    curves = [
        {"trial": trial, "epoch": str(epoch), "val/accuracy": str(0.1 * epoch + gap)}
        for trial, gap in (("baseline", 0.0), ("baseline-seed1001", 0.2), ("t0000", 0.3), ("t0001", 0.9))
        for epoch in (1, 2)
    ]
    figure = search_curves(curves, ROWS, {"t0000": "best", "baseline": "control"}, "val/accuracy")
    assert figure is not None
    axes = figure.axes[0]
    assert list(axes.get_legend_handles_labels()[1]) == ["best", "control (2 seeds)"]
    np.testing.assert_allclose(np.asarray(axes.lines[1].get_ydata()), [20, 30])
    assert search_curves([], ROWS, {"t0000": "best"}, "val/accuracy") is None


def test_what_was_looked_at_and_spent_is_counted() -> None:
    said = plotted_trials(SUMMARY, ROWS)
    assert said.startswith(
        "4 trials (2 in full, 1 stopped early, 1 failed), 1 control and 1 confirmation, all of them on"
    )
    assert "2 trials of the control's own study" in plotted_trials(SUMMARY, [*ROWS, *[row("c", "control trial", "complete", 4, 0.1, 0.0)] * 2])  # fmt: skip
    cost = dict(describe_cost(SUMMARY, filled(Retraining, seconds=90.0, runs=[{}, {}])))
    assert cost["search, by the clock"] == "30 min"
    assert cost["saved by stopping early"] == "2 epochs, about 3 min"
    assert cost["retraining, workers' time"] == "2 min for 2 runs"
    assert not any("GPU" in name or "money" in name for name in cost)
    paid = filled(SearchSummary, **CONTENT | {"spent": CONTENT["spent"] | {"gpu_hours": 2.0, "cost": 5.0}})
    assert dict(describe_cost(paid, filled(Retraining, seconds=1)))["search, money"].startswith("5.00")


def test_use_of_the_machine_has_a_row_for_the_search_and_one_for_retraining() -> None:
    nothing = filled(Retraining)
    assert usage_rows(SUMMARY, nothing) == []
    found = {"cpu_busy": 0.98, "data_wait": 0.02, "memory_mb": 800.0}
    unknown = dict.fromkeys(("machine_cpu_busy", "gpu_busy", "gpu_memory_mb"))
    measured = filled(SearchSummary, **CONTENT | {"spent": CONTENT["spent"] | {"usage": found}})
    assert usage_rows(measured, nothing) == [{"part": "search", **found, **unknown}]
    assert [each["part"] for each in usage_rows(measured, filled(Retraining, usage=found))] == ["search", "retraining"]


def test_statistics_are_declared_and_every_other_test_is_called_what_it_is() -> None:
    correct = correct_by_arm(predictions(), "plain")
    assert correct["best"].astype(int).tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1]]
    comparison = compare_arms(correct["best"], correct["plain"])
    attention = compare_scores(np.full((2, 6), 0.9) + np.eye(2, 6) / 10, np.full((2, 6), 0.5))
    endpoints = decide_endpoints(comparison, margin=0.02, attention=attention)
    words = dict(describe_analysis(comparison, endpoints, correct, "plain", margin=0.02, seed=0, looked="7 trials"))
    assert "by 2 points or more (evaluate.margin)" in words["endpoints, named beforehand"]
    assert "by Holm's rule" in words["endpoints, named beforehand"]
    assert words["attention better (AUROC of the fixed head)"].startswith("shown: +0.4")
    assert "97.5 % interval" in words["attention better (AUROC of the fixed head)"]
    assert words["attention better (AUROC of the fixed head)"].count(" in its direction") == 0
    assert ". Not lower by the margin: not shown (p = " in words["accuracy"]
    assert ". Higher: not tested (p = " in words["accuracy"]
    assert ". Lower: not shown (p = " in words["accuracy"]
    assert sum("points" in said for name, said in words.items() if name.startswith("accuracy")) == 1
    assert "seed by seed and image by image" in words["intervals"]
    assert f"{100 * comparison.difference:+.2f} points, 95 % interval" in words["accuracy"]
    assert words["detectable difference"].startswith("at 95 %, a true difference of ")
    strict = [replace(endpoints[0], level=0.975, low=-0.5, high=0.25), *endpoints[1:]]
    said = dict(describe_analysis(comparison, strict, correct, "plain", margin=0.02, seed=0, looked=""))["accuracy"]
    assert ". Not lower by the margin: not shown at 97.5 %, interval -50.00 to +25.00 points (p = " in said
    caption = describe_levels(strict, comparison, ACCURACY_WORDS)
    assert caption.startswith("Difference to the control with its 95 % interval; ")
    assert " The verdict has the 97.5 % interval: two statements are tested together, " in caption
    assert "verdict" not in describe_levels(endpoints, comparison, ACCURACY_WORDS)
    none = replace(comparison, low=None, high=None)
    assert describe_levels(endpoints, none, ACCURACY_WORDS) == "Difference to the control; there is no interval."
    assert "no part of the verdict" in words["families"]
    assert "decides nothing" in words["plain bootstrap, seeds and images"]
    wide, tight = (replace(comparison, low=-width, high=width) for width in (0.9, 0.0001))
    for primary, said in ((wide, True), (tight, False)):
        words = dict(describe_analysis(primary, endpoints, correct, "plain", margin=0.02, seed=0, looked="7 trials"))
        assert ("too narrow" in words["plain bootstrap, seeds and images"]) == said
        assert "decides nothing" in words["plain bootstrap, seeds and images"]
    assert "3 test images are right with the best configuration alone, 0 with" in words["two fixed networks"]
    one = {arm: table[:, [0, 2]] for arm, table in correct.items()}
    words = dict(describe_analysis(comparison, endpoints, one, "plain", margin=0.02, seed=0, looked="7 trials"))
    assert "1 test image is right with the best configuration alone" in words["two fixed networks"]
    assert words["results seen before the test"] == "7 trials."


def test_one_seed_gives_no_interval_and_says_so() -> None:
    correct = {arm: table[:1] for arm, table in correct_by_arm(predictions(), "plain").items()}
    comparison = compare_arms(correct["best"], correct["plain"])
    losses = compare_scores(np.ones((1, 6)), np.zeros((1, 6)))
    endpoints = decide_endpoints(comparison, margin=0.02, log_loss=losses)
    words = dict(describe_analysis(comparison, endpoints, correct, "plain", margin=0.02, seed=0, looked=""))
    assert "without an interval: with one seed in an arm" in words["accuracy"]
    assert "in this order until one is not shown" in words["endpoints, named beforehand"]
    assert words["log loss lower"] == "not tested; there is no interval."
    assert not {"detectable difference", "plain bootstrap, seeds and images"} & set(words)


def test_classes_have_their_change_and_no_interval_leaves_what_can_be() -> None:
    correct = correct_by_arm(predictions(), "plain")
    arms = {arm: {"per_class_accuracy": [1.0, 0.5, None]} for arm in ("best", "plain")}
    rows = class_rows(
        filled(Evaluation, arms=arms), ["a", "b", "c"], predictions()["labels"], correct, "plain", confidence=0.95
    )
    assert [each["images"] for each in rows] == [3, 2, 1]
    assert rows[0]["change"] == pytest.approx(5 / 6 - 1 / 2)
    assert rows[0]["low"] >= -1.0
    assert rows[0]["high"] <= 1.0
    assert rows[2]["change"] is rows[2]["p"] is None
    drawn = class_figure(rows, 0.95)
    assert drawn is not None
    assert drawn[0] == "Change of accuracy by class, every class; the intervals hold together at 95 %."
    many = [{"class": str(n), "change": n / 100, "low": None, "high": None} for n in range(30)]
    fewer = class_figure(many, 0.95)
    assert fewer is not None
    assert "the 20 classes that changed most" in fewer[0]
    assert [label.get_text() for label in fewer[1].axes[0].get_yticklabels()] == [str(n) for n in range(10, 30)]
    assert class_figure(rows[2:], 0.95) is None


def test_two_seeds_that_disagree_give_no_interval_beyond_what_is_possible() -> None:
    """The control is always right, so that no difference above 0 is possible."""
    correct = {"best": np.repeat([[True], [False]], 40, axis=1), "plain": np.ones((2, 40), dtype=np.bool_)}
    found = compare_arms(correct["best"], correct["plain"])
    assert found.low is not None
    assert found.low < -1
    decided = decide_endpoints(found, margin=0.02, attention=found)
    endpoints = possible_endpoints(decided, found, found, ACCURACY_WORDS)
    assert all((endpoint.low, endpoint.high) == (-1.0, 0.0) for endpoint in endpoints)
    possible = clip_to_possible(found)
    words = dict(describe_analysis(possible, endpoints, correct, "plain", margin=0.02, seed=0, looked=""))
    assert words["accuracy"].startswith("-50.00 points, 95 % interval -100.00 to +0.00 points, ")
    few = "2 seeds are too few for a useful interval of accuracy: raise retrain.seeds."
    assert words["detectable difference"] == few
    arms = {arm: {"per_class_accuracy": [1.0]} for arm in correct}
    labels = np.zeros(40, dtype=np.int64)
    (row,) = class_rows(filled(Evaluation, arms=arms), ["a"], labels, correct, "plain", confidence=0.95)
    assert (row["low"], row["high"]) == (-1.0, 0.0)


@pytest.mark.parametrize(
    ("own", "machine", "slowed"), [(0.227, 1.0, True), (0.95, 1.0, False), (0.2, 0.3, False), (None, None, False)]
)
def test_other_work_on_the_machine_is_said(own: float | None, machine: float | None, slowed: bool) -> None:
    rows = [{"part": part, "cpu_busy": own, "machine_cpu_busy": machine} for part in ("search", "retraining")]
    begins = "During the search and the retraining the machine's CPU was busy, but the runs used little"
    assert describe_other_work(rows).startswith(begins) == slowed
    assert bool(describe_other_work(rows)) == slowed


def test_the_verdict_names_the_methods_that_the_control_lacks() -> None:
    assert set(NAMES) == set(METHODS)
    off: dict[str, dict[str, Any]] = {name: {"weight": 0.0} for name in ("spatial_entropy", "total_variation")}
    off["plugin"] = {"weight": 0.0, "spec": "mine:Mine"}
    assert describe_method(off | {"spatial_entropy": {"weight": 0.1}}, off) == "SAR"
    both = {"spatial_entropy": {"weight": 0.1}, "total_variation": {"weight": 1.0}}
    assert describe_method(off | both, off) == "SAR and total variation"
    assert describe_method(off | both, off | {"spatial_entropy": {"weight": 0.2}}) == "total variation"
    assert describe_method(off | {"plugin": {"weight": 1.0, "spec": "mine:Mine"}}, off) == "the plugin mine:Mine"
    assert describe_method(off, off) == "the best configuration"


def test_the_verdict_says_shortly_what_it_is_against() -> None:
    tuned = "baseline, its recipe tuned over 12 trials of its own (search.compare: same_budget)"
    assert describe_control(tuned) == "baseline, its recipe tuned over 12 trials of its own"
    plain = "baseline, with the recipe of params.yaml (the search varies none of it)"
    assert describe_control(plain) == "baseline, with the recipe of params.yaml"


def test_another_metric_is_declared_and_resampled_in_its_own_words() -> None:
    found = predictions()
    correct, metric = correct_by_arm(found, "plain"), METRICS["log_loss"]
    tables = metric.tables(probabilities_by_arm(found, "plain"), found["labels"])
    assert tables is not None
    comparison = compare_scores(tables["best"], tables["plain"])
    endpoints = decide_endpoints(comparison, margin=0.02, words=metric.words)
    asked: dict[str, Any] = {"margin": 0.02, "seed": 0, "looked": "7 trials", "words": metric.words}
    words = dict(describe_analysis(comparison, endpoints, correct, "plain", tables=tables, **asked))
    order = words["endpoints, named beforehand"]
    assert (
        "the log loss is not higher than the control's by 0.02 or more (evaluate.margin), then that the log loss is lower"
        in order
    )
    assert "A rise of log loss is reported in any case." in order
    for outcome in (" Not higher by the margin: ", " Lower: ", " Higher: "):
        assert outcome in words["log loss"]
    assert "points" not in words["log loss"]
    assert "decides nothing" in words["plain bootstrap, seeds and images"]
    assert "plain bootstrap, seeds and images" not in dict(
        describe_analysis(comparison, endpoints, correct, "plain", **asked)
    )


def test_folds_are_described_by_what_they_speak_of_and_nothing_that_takes_rows_for_networks() -> None:
    correct = {arm: np.tile(table, (1, 2)) for arm, table in correct_by_arm(predictions(), "plain").items()}
    folds = np.repeat([0, 1], 6)
    comparison = compare_arms(correct["best"], correct["plain"], folds=folds)
    losses = compare_scores(np.ones((2, 12)) + np.eye(2, 12), np.zeros((2, 12)), folds=folds)
    endpoints = decide_endpoints(comparison, margin=0.02, log_loss=losses)
    words = dict(describe_analysis(comparison, endpoints, correct, "plain", margin=0.02, seed=0, looked="7 trials"))
    assert words["intervals"].endswith("(a two-way layout of their differences), within each of 2 folds, and summed.")
    assert not {"plain bootstrap, seeds and images", "two fixed networks"} & set(words)
    arms = {arm: {"per_class_accuracy": [1.0, 0.5, None]} for arm in ("best", "plain")}
    labels = np.tile(predictions()["labels"], 2)
    rows = class_rows(
        filled(Evaluation, arms=arms), ["a", "b", "c"], labels, correct, "plain", confidence=0.95, folds=folds
    )
    assert [each["images"] for each in rows] == [6, 4, 2]
    assert rows[0]["low"] is not None
    assert rows[2]["change"] is None  # one image in each fold


def test_remarks_on_folds_say_what_is_registered_and_what_the_verdict_speaks_of() -> None:
    assert registered_remarks(filled(Evaluation)) == []
    assert describe_folds(filled(Evaluation)) == ""
    evaluation = filled(Evaluation, folds=[{}] * 5, holdout=None)
    assert "It has seen every test image: the figures are those of the procedure" in registered_remarks(evaluation)[0]  # fmt: skip
    note = describe_folds(evaluation)
    assert "speaks of these 5 searches, tested on new images (Bayle" in note
    assert "no unbiased estimate exists (Bengio and Grandvalet, 2004)" in note
    kept = registered_remarks(filled(Evaluation, folds=[{}] * 5, holdout={"images": 90, "accuracy": 0.95}))[0]
    assert "On the 90 images that were kept apart (evaluate.holdout) it has an accuracy of 95.0 %" in kept


def test_runs_of_every_fold_are_those_that_were_tested() -> None:
    whole = filled(Retraining, runs=[{"folder": "best-seed1"}])
    assert [run.folder for run in whole.tested_runs()] == ["best-seed1"]
    folds = [{"runs": [{"folder": f"folds/{number}/best"}]} for number in (1, 2)]
    retrained = filled(Retraining, runs=[{"folder": "best-seed1"}], folds=folds, seconds=60.0)
    assert [run.folder for run in retrained.tested_runs()] == ["folds/1/best", "folds/2/best"]
    assert ("retraining, workers' time", "1 min for 3 runs") in describe_cost(SUMMARY, retrained)
