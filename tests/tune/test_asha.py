"""Claims about ASHA's stopping form: it decides as Ray's does."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from support.stopping_rules import decisions, lived, rule


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of Ray's, where a NaN came first
@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("grace_period", [1, 3, 4])
def test_asha_decides_as_rays_does(grace_period: int, factor: float) -> None:
    reports = lived(rule("asha_stopping", grace_period=grace_period, reduction_factor=factor), seed=int(10 * factor))
    rays = AsyncHyperBandScheduler(
        time_attr="epoch", metric="objective", mode="max", max_t=16, grace_period=grace_period, reduction_factor=factor
    )
    expected, nobody = [], SimpleNamespace()
    for name, epoch, objective in reports:
        trial: Any = SimpleNamespace(trial_id=name)
        if name not in rays._trial_info:
            rays.on_trial_add(nobody, trial)  # type: ignore[arg-type]
        said = rays.on_trial_result(nobody, trial, {"epoch": epoch, "objective": objective})  # type: ignore[arg-type]
        expected.append(said == TrialScheduler.STOP)
    assert decisions(rule("asha_stopping", grace_period=grace_period, reduction_factor=factor), reports) == expected
    assert sum(expected) == 60  # so each was stopped, and
    assert sum(stop and epoch < 16 for stop, (_, epoch, _) in zip(expected, reports, strict=True)) > 10
