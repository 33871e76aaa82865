"""What `evaluate` counts and shows; its figures are tested in tests/score, its attention in test_locating."""

import json
from pathlib import Path
from typing import Any

from pipeline.stages.evaluate.scores import flat_metrics
from pipeline.state.test_reads import count_test_read


def test_reads_that_are_known_otherwise_count_where_the_state_is_gone(tmp_path: Path) -> None:
    assert count_test_read(tmp_path, "a", commit="c", models=2, prior_reads=4) == 5
    assert count_test_read(tmp_path, "a", commit="c", models=2) == 2


def test_test_reads_are_counted_by_data_hash_alone(tmp_path: Path) -> None:
    def read(data_hash: str) -> int:
        return count_test_read(tmp_path, data_hash, commit="c", models=2)

    assert [read("ab"), read("ab"), read("abc"), read("ab")] == [1, 2, 1, 3]
    with (tmp_path / "test_reads.jsonl").open("a") as file:
        file.write('{"data_hash": "ab", "ti\n' + json.dumps({"commit": '"data_hash": "ab"'}) + "\n")
    assert read("ab") == 4


def test_metrics_hold_what_attention_scores_where_it_was_scored() -> None:
    def arm(location: Any) -> dict[str, Any]:
        return {"accuracy": 0.9, "ece": 0.1, "nll": 0.3, "location": location}

    scores = {"auroc": 0.8, "pointing_game": 0.7, "energy": 0.6, "jaccard_best_head": 0.5}
    comparison = {"accuracy": 0.0, "difference": 0.01, "low": None, "high": None}
    endpoints = [
        {"name": "accuracy_not_worse", "shown": True, "difference": 0.01, "low": None, "high": None},
        {"name": "attention_auroc", "shown": False, "difference": 0.2, "low": -0.1, "high": 0.5},
    ]
    arms = {"best": arm(scores), "baseline": arm(None)}
    summary = {"comparison": comparison, "arms": arms, "endpoints": endpoints}
    test = flat_metrics(summary, "baseline")["test"]
    assert test["best"] == {"accuracy": 0.9, "ece": 0.1, "nll": 0.3, "auroc": 0.8, "pointing_game": 0.7, "energy": 0.6}
    assert test["control"] == {"accuracy": 0.9, "ece": 0.1, "nll": 0.3}
    assert test["difference"] == {"accuracy": 0.01}
    assert test["attention_difference"] == {"auroc": 0.2, "low": -0.1, "high": 0.5}
    assert test["shown"] == {"accuracy_not_worse": 1, "attention_auroc": 0}
    endpoints[1] = {"name": "log_loss", "shown": True, "difference": -0.2, "low": None, "high": None}
    assert flat_metrics(summary, "baseline")["test"]["log_loss_difference"] == {"nll": -0.2}
