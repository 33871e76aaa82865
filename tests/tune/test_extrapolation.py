"""Claims about the values that stopped trials would have reached: to the last bit those of an earlier implementation."""

import copy
import math
import random
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.tune.study.extrapolation import extrapolate
from pipeline.tune.study.study import with_values

EPOCHS = 9


def curves(seed: int, trials: int) -> list[tuple[dict[int, float], bool]]:
    """Curves of trials that ran in full, were stopped, or failed; whether they ran in full."""
    dice = random.Random(seed)
    found = []
    for _ in range(trials):
        whole = dice.random() < 0.4
        length = EPOCHS if whole else dice.randint(0, EPOCHS - 1)
        epochs = [epoch for epoch in range(1, length + 1) if epoch == length or dice.random() < 0.9]
        found.append(({epoch: dice.random() - 1 / epoch for epoch in epochs}, whole))
    return found


def with_values_restated(trials: Sequence[FrozenTrial]) -> list[float]:
    """As what Optuna's Gaussian process is shown was worked out by itself, where nothing breaks a constraint."""
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    seen = []
    for trial in trials:
        if trial.state == TrialState.PRUNED:
            values = None
            last = max(trial.intermediate_values, default=None)
            if last is not None and not math.isnan(trial.intermediate_values[last]):
                gains = [t.values[0] - t.intermediate_values[last] for t in whole if last in t.intermediate_values]
                values = [trial.intermediate_values[last] + (statistics.median(gains) if gains else 0.0)]
            if values is None:
                continue
            trial = copy.copy(trial)
            trial.state, trial.values = TrialState.COMPLETE, values
        seen.append(trial.values[0])
    return seen


@pytest.mark.parametrize("nan", [0.0, 0.1])
@pytest.mark.parametrize("trials", [1, 2, 7, 60])
@pytest.mark.parametrize("seed", range(25))
def test_optunas_gp_is_shown_the_same_values_as_before(seed: int, trials: int, nan: float) -> None:
    dice, shown = random.Random(seed), []
    for curve, whole in curves(seed, trials):
        values = {epoch: math.nan if dice.random() < nan else value for epoch, value in curve.items()}
        state = TrialState.COMPLETE if whole else TrialState.PRUNED
        value = curve[EPOCHS] if whole else None
        shown.append(create_trial(state=state, value=value, intermediate_values=values))
    expected, found = with_values_restated(shown), [trial.values[0] for trial in with_values(shown)]
    assert np.array_equal(expected, found, equal_nan=True)


def test_stopped_trial_gains_what_the_others_did_and_nothing_if_there_are_none() -> None:
    finished = [({1: 0.5, 2: 0.75}, 0.75), ({1: 0.5, 2: 1.0}, 1.0)]
    assert extrapolate([{1: 0.25}, {1: 0.0, 2: 0.5}], finished) == [0.625, 0.5]
    assert extrapolate([{1: 0.25}], []) == [0.25]
