"""Claims about what a trial measures: without masks it says so; metrics of classes are those that are asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from pipeline.config import Params
from pipeline.data.prepared.prepared import Prepared
from pipeline.errors import UserError
from pipeline.score.metrics.metric import METRICS
from pipeline.tune.objectives.objectives import AUROC, OF_CLASSES, Objectives
from pipeline.tune.objectives.trial_metrics import score_attention, score_classes


def test_attention_without_masks_to_score_against_is_the_users_to_change() -> None:
    prepared = Prepared(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), None, {})
    data: Any = SimpleNamespace(prepared=prepared)
    with pytest.raises(UserError, match=r"params\.yaml: search: .*attention is scored against masks"):
        score_attention(nn.Identity(), data, Objectives(("val/accuracy", AUROC)))
    assert score_attention(nn.Identity(), data, Objectives()) == {}


def test_metrics_of_classes_are_of_the_validation_images_and_only_those_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metric_of_a_trial.py").write_text(
        "def first(probabilities, labels):\n    return probabilities[0, 0]\n"
    )
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels, shares = rng.integers(3, size=40), rng.dirichlet(np.ones(3), size=30).astype(np.float32)
    prepared = Prepared(np.zeros((40, 4, 4, 1), np.uint8), labels, None, {})
    data: Any = SimpleNamespace(prepared=prepared, split=SimpleNamespace(val=np.arange(10, 40)))
    params = Params().with_values({"evaluate.metric": "metric_of_a_trial:first"}, where="here")
    found = score_classes(shares, data, Objectives(("val/accuracy", *OF_CLASSES), then="val/loss"), params)
    assert list(found) == list(OF_CLASSES)
    for name in ("balanced_accuracy", "macro_f1", "auroc"):
        assert found[f"val/{name}"] == METRICS[name].value_of(shares, labels[10:])
    assert found["val/metric"] == pytest.approx(shares[0, 0])
    assert score_classes(shares, data, Objectives(("val/accuracy", "val/loss")), params) == {}
    assert list(score_classes(shares, data, Objectives(then="val/auroc"), params)) == ["val/auroc"]
