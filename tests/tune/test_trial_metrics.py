"""A claim about what a trial measures: without masks it says so, however Python is run."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from pipeline.data.prepared.prepared import Prepared
from pipeline.errors import UserError
from pipeline.tune.objectives.objectives import AUROC, Objectives
from pipeline.tune.objectives.trial_metrics import score_attention


def test_attention_without_masks_to_score_against_is_the_users_to_change() -> None:
    prepared = Prepared(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), None, {})
    data: Any = SimpleNamespace(prepared=prepared)
    with pytest.raises(UserError, match=r"params\.yaml: search: .*attention is scored against masks"):
        score_attention(nn.Identity(), data, Objectives(("val/accuracy", AUROC)))
    assert score_attention(nn.Identity(), data, Objectives()) == {}
