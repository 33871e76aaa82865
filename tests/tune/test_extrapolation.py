"""Claims about the values that stopped trials would have reached: to the last bit those of two earlier implementations."""

import copy
import math
import random
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.tune.study.extrapolation import extrapolate
from pipeline.tune.study.gp_sampler import Observation, final_values
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


def final_values_restated(observations: Sequence[Observation]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As the sampler noisy_gp worked them out by itself."""
    whole = [trial for trial in observations if trial.whole and trial.curve]
    values = np.array([trial.curve[max(trial.curve)] if trial.curve else math.nan for trial in observations])
    doubt = np.zeros(len(observations))
    last = {max(trial.curve) for trial in observations if trial.curve and not trial.whole}
    usual = float(np.nanvar(values)) / 4
    for epoch in sorted(last):
        here = [not trial.whole and bool(trial.curve) and max(trial.curve) == epoch for trial in observations]
        gains = np.array([t.curve[max(t.curve)] - t.curve[epoch] for t in whole if epoch in t.curve])
        values[here] += np.median(gains) if len(gains) else 0.0
        squares = ((gains - gains.mean()) ** 2).sum() if len(gains) else 0.0
        doubt[here] = (2.0 * usual + squares) / (2.0 + len(gains))
    values[np.isnan(values)] = np.nanmin(values)
    return values, doubt


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


@pytest.mark.parametrize("trials", [1, 2, 7, 60])
@pytest.mark.parametrize("seed", range(25))
def test_noisy_gp_learns_from_the_same_values_and_variances_as_before(seed: int, trials: int) -> None:
    observations = [Observation([0.5], curve, whole) for curve, whole in curves(seed, trials)]
    if not any(trial.curve for trial in observations):
        observations.append(Observation([0.5], {1: 0.5}, False))
    expected, found = final_values_restated(observations), final_values(observations)
    for before, now in zip(expected, found, strict=True):
        assert before.tolist() == now.tolist()  # not about the same: the same


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
    assert extrapolate([{1: 0.25}], finished) == [(0.625, 0.0)]
    assert extrapolate([{1: 0.25}], finished, prior_var=1.0) == [(0.625, (2.0 + 2 * 0.125**2) / 4)]
    assert extrapolate([{1: 0.25}], [], prior_var=1.0) == [(0.25, 1.0)]
