"""What register writes down of the evaluation for the gate to read."""

import json
from dataclasses import fields
from typing import Any

from support.partial_results import filled, filled_content

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.registration import arms_tag
from pipeline.score.comparison import Comparison
from pipeline.score.metrics.metric import ACCURACY, MACRO_F1
from pipeline.stages.register.__main__ import metric_tags, own_accuracy_tags, procedure_tags

CONTENT = filled_content(Evaluation, {"comparison": {"difference": 0.01, "low": 0.0, "high": 0.02, "seeds": [2, 2]}})
COMPARISON = CONTENT["comparison"]
PARTS = {"seeds": [1e-6], "both": [1e-6], "seed_counts": [2], "images": 1e-5, "images_both": 0.0, "image_count": 90}
EVALUATION: dict[str, Any] = {
    "control": "plain",
    "comparison": COMPARISON,
    "margin": 0.02,
    "look": 2,
    "variance_parts": PARTS,
    "verdict": "x",
}


def evaluation(**further: Any) -> Evaluation:
    return filled(Evaluation, **EVALUATION, **further)


def tag(**further: Any) -> Any:
    return json.loads(json.dumps(arms_tag(evaluation(**further)).content()))


def test_the_gate_gets_the_comparison_with_its_margin_its_look_and_the_first_endpoint() -> None:
    found = tag(endpoints=[{"name": "a", "level": 0.975}, {"name": "b"}])
    assert (found["endpoint"]["name"], found["endpoint"]["level"]) == ("a", 0.975)
    assert list(found) == [
        "control",
        *(each.name for each in fields(Comparison)),
        "margin",
        "look",
        "variance_parts",
        "endpoint",
    ]
    assert {name: found[name] for name in COMPARISON} == COMPARISON
    assert (found["control"], found["margin"], found["look"]) == ("plain", 0.02, 2)
    assert found["variance_parts"] == PARTS | {"folds": 1}


def test_an_evaluation_without_endpoints_leaves_the_comparison_to_the_gate() -> None:
    assert tag()["endpoint"] is None


def test_another_metric_goes_with_the_comparison_and_tags_say_which_it_is() -> None:
    by_f1 = {"metric": MACRO_F1.words.content(), "arms": {"best": {"macro_f1": 0.81234}}}
    assert tag(**by_f1)["metric"] == MACRO_F1.words.content()
    assert metric_tags(evaluation(**by_f1)) == {"sar.metric": "macro-F1", "sar.test_metric": "0.8123"}
    earlier = {"arms": {"best": {"accuracy": 0.9}}}
    by_accuracy = earlier | {"metric": ACCURACY.words.content()}
    assert tag(**by_accuracy) == tag()
    for each in (by_accuracy, earlier):
        assert metric_tags(evaluation(**each)) == {"sar.metric": "accuracy", "sar.test_metric": "0.9000"}


def test_what_was_tested_in_folds_is_put_down_for_promotion() -> None:
    assert procedure_tags(evaluation()) == {}
    folded: dict[str, Any] = {"folds": [{}, {}, {}], "folds_hash": "h", "test_images": 90}
    assert json.loads(procedure_tags(evaluation(**folded))["sar.procedure"]) == {"folds": 3, "images": 90, "folds_hash": "h", "holdout": 0}  # fmt: skip
    kept = evaluation(**folded, holdout={"images": 10})
    assert json.loads(procedure_tags(kept)["sar.procedure"])["holdout"] == 10


def test_the_accuracy_of_the_registered_network_is_put_down_beside_the_mean() -> None:
    scores = {"arms": {"best": {"seeds": [4, 7], "accuracies": [0.91, 0.93], "accuracy": 0.92}}}
    assert own_accuracy_tags(evaluation(**scores), 7) == {"sar.network_accuracy": "0.9300"}
    assert own_accuracy_tags(evaluation(**scores, folds=[{}, {}]), 7) == {}
