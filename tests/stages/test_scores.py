"""What `evaluate` shows; its figures are tested in tests/score, its attention in test_locating."""

from typing import Any

from support.partial_results import filled

from pipeline.artifacts.evaluation import Evaluation
from pipeline.stages.evaluate.scores import flat_metrics


def test_metrics_hold_what_attention_scores_where_it_was_scored() -> None:
    def arm(location: Any) -> dict[str, Any]:
        return {"accuracy": 0.9, "ece": 0.1, "nll": 0.3, "location": location}

    scores = {"auroc": 0.8, "pointing_game": 0.7, "energy": 0.6, "jaccard_best_head": 0.5}
    comparison = {"difference": 0.01, "low": None, "high": None}
    endpoints = [
        {"name": "accuracy_not_worse", "shown": True, "difference": 0.01, "low": None, "high": None},
        {"name": "attention_auroc", "shown": False, "difference": 0.2, "low": -0.1, "high": 0.5},
    ]
    arms = {"best": arm(scores), "baseline": arm(None)}
    summary: dict[str, Any] = {"control": "baseline", "comparison": comparison, "arms": arms}
    test = flat_metrics(filled(Evaluation, endpoints=endpoints, **summary)).test
    assert test["best"] == {"accuracy": 0.9, "ece": 0.1, "nll": 0.3, "auroc": 0.8, "pointing_game": 0.7, "energy": 0.6}
    assert test["control"] == {"accuracy": 0.9, "ece": 0.1, "nll": 0.3}
    assert test["difference"] == {"accuracy": 0.01}
    assert test["attention_difference"] == {"auroc": 0.2, "low": -0.1, "high": 0.5}
    assert test["shown"] == {"accuracy_not_worse": 1, "attention_auroc": 0}
    endpoints[1] = {"name": "log_loss", "shown": True, "difference": -0.2, "low": None, "high": None}
    assert flat_metrics(filled(Evaluation, endpoints=endpoints, **summary)).test["log_loss_difference"] == {"nll": -0.2}
