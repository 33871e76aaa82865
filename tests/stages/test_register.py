"""What register writes down of the evaluation for the gate to read."""

import json
from typing import Any

from pipeline.stages.register.__main__ import judged_by

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
