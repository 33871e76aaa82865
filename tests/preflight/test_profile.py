"""A step's cost is measured by the check, and not once more by the stage that follows it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.example_plans import COST, SPACE

from pipeline.preflight import profile as module
from pipeline.preflight.plan import Plan
from pipeline.preflight.profile import RECENT_S, StepCost, profile_steps
from pipeline.tune.space import SearchSpace
from pipeline.tune.task import Resources

DEARER = replace(COST, seconds_per_step=(2.0, 3.0))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[StepCost]:
    """What measuring finds, one after the other; what is left was not measured."""
    found = [COST, DEARER]
    monkeypatch.setattr(module, "measure_steps", lambda _: found.pop(0))
    return found


@pytest.fixture
def plan(planned: Callable[..., Plan]) -> Plan:
    made = planned()
    made.workspace.state.mkdir()
    return made


def test_stage_takes_what_the_check_has_measured(plan: Plan, measured: list[StepCost]) -> None:
    assert profile_steps(plan) == COST
    assert profile_steps(plan, recent=True) == COST
    assert measured == [DEARER]


def test_check_measures_every_time(plan: Plan, measured: list[StepCost]) -> None:
    assert [profile_steps(plan), profile_steps(plan)] == [COST, DEARER]


def test_stage_that_no_check_went_before_measures(plan: Plan, measured: list[StepCost]) -> None:
    assert profile_steps(plan, recent=True) == COST


@pytest.mark.parametrize(
    "other",
    [
        {"changes": {"train.batch_size": 32}},
        {"changes": {"model.drop_path": 0.3}},
        {"space": SearchSpace("space.yaml", SPACE.dimensions, {})},
        {"resources": Resources(cpus=2, gpus=0.0, max_concurrent=1, machine_cpus=2, machine_gpus=0)},
    ],
)
def test_other_plan_is_measured_anew(
    plan: Plan, planned: Callable[..., Plan], measured: list[StepCost], other: dict[str, Any]
) -> None:
    profile_steps(plan)
    assert profile_steps(planned(**other), recent=True) == DEARER


@pytest.mark.parametrize("later", [RECENT_S + 1, -60.0])
def test_measurement_of_another_hour_is_none(plan: Plan, measured: list[StepCost], later: float) -> None:
    profile_steps(plan)
    kept = plan.workspace.state / "step_cost.json"
    record = json.loads(kept.read_text())
    kept.write_text(json.dumps({**record, "at": record["at"] - later}))
    assert profile_steps(plan, recent=True) == DEARER


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', "null"])
def test_file_that_is_cut_off_is_none(plan: Plan, measured: list[StepCost], text: str) -> None:
    profile_steps(plan)
    (plan.workspace.state / "step_cost.json").write_text(text)
    assert profile_steps(plan, recent=True) == DEARER


def test_file_of_another_version_is_none(plan: Plan, measured: list[StepCost]) -> None:
    profile_steps(plan)
    kept = plan.workspace.state / "step_cost.json"
    record = json.loads(kept.read_text())
    del record["cost"]["checkpoint_bytes"]
    kept.write_text(json.dumps(record))
    assert profile_steps(plan, recent=True) == DEARER


def test_check_of_a_new_checkout_makes_no_folder(planned: Callable[..., Plan], measured: list[StepCost]) -> None:
    plan = planned()
    profile_steps(plan)
    assert not plan.workspace.state.exists()
