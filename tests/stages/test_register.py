"""What register writes down of the evaluation for the gate to read."""

import json
from typing import Any

from pipeline.score.metrics.metric import ACCURACY, MACRO_F1
from pipeline.stages.register.__main__ import judged_by, metric_tags, procedure_tags

COMPARISON = {"difference": 0.01, "low": 0.0, "high": 0.02, "seeds": [2, 2]}
EVALUATION: dict[str, Any] = {
    "control": "plain",
    "comparison": COMPARISON,
    "margin": 0.02,
    "look": 2,
    "variance_parts": {"images": 1e-5},
    "verdict": "x",
}


def test_the_gate_gets_the_comparison_with_its_margin_its_look_and_the_first_endpoint() -> None:
    endpoints = [{"name": "a", "level": 0.975}, {"name": "b"}]
    found = json.loads(json.dumps(judged_by(EVALUATION | {"endpoints": endpoints})))
    beside = {"margin": 0.02, "look": 2, "variance_parts": {"images": 1e-5}, "endpoint": endpoints[0]}
    assert found == COMPARISON | {"control": "plain"} | beside


def test_an_evaluation_without_endpoints_leaves_the_comparison_to_the_gate() -> None:
    assert judged_by(EVALUATION)["endpoint"] is None
    assert judged_by(EVALUATION | {"endpoints": []})["endpoint"] is None


def test_another_metric_goes_with_the_comparison_and_tags_say_which_it_is() -> None:
    by_f1 = EVALUATION | {"metric": MACRO_F1.words.content(), "arms": {"best": {"macro_f1": 0.81234}}}
    assert judged_by(by_f1)["metric"] == MACRO_F1.words.content()
    assert metric_tags(by_f1) == {"sar.metric": "macro-F1", "sar.test_metric": "0.8123"}
    earlier = EVALUATION | {"arms": {"best": {"accuracy": 0.9}}}
    by_accuracy = earlier | {"metric": ACCURACY.words.content()}
    assert judged_by(by_accuracy) == judged_by(EVALUATION)
    assert metric_tags(by_accuracy) == metric_tags(earlier) == {"sar.metric": "accuracy", "sar.test_metric": "0.9000"}


def test_what_was_tested_in_folds_is_put_down_for_promotion() -> None:
    assert procedure_tags(EVALUATION) == {}
    folded = EVALUATION | {"folds": [{}, {}, {}], "folds_hash": "h", "test_images": 90, "holdout": None}
    assert json.loads(procedure_tags(folded)["sar.procedure"]) == {"folds": 3, "images": 90, "folds_hash": "h", "holdout": 0}  # fmt: skip
    kept = folded | {"holdout": {"images": 10}}
    assert json.loads(procedure_tags(kept)["sar.procedure"])["holdout"] == 10
