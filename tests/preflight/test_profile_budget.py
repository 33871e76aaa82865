"""Claims about the time that measuring takes: bounded also where a single step is long, and called an estimate then."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from support.example_plans import COST

from pipeline.preflight import profile, total_estimate
from pipeline.preflight.estimate import RemainingWork
from pipeline.preflight.plan import Plan
from pipeline.preflight.profile import measure_steps
from pipeline.preflight.profile_budget import FEW, LARGE, MOST_S, ProfileBudget


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "BUDGET_S", 0.0)


class Slow:
    """A machine on which a step takes so many seconds an image, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds_per_image: float) -> None:
        self.now = 0.0
        self.steps: list[tuple[float, int]] = []
        self.scored: list[int] = []
        self.each = seconds_per_image
        take_step, score = profile.take_step, profile.score

        def step(model: Any, objective: Any, optimizer: Any, inputs: Any, labels: Any, **given: Any) -> None:
            take_step(model, objective, optimizer, inputs, labels, **given)
            self.now += self.each * len(labels)
            self.steps.append((objective.weights(given["epoch"])["spatial_entropy"], len(labels)))

        def scoring(model: Any, objective: Any, val: Any, config: Any) -> Any:
            self.now += self.each * len(val) / 3
            self.scored.append(len(val))
            return score(model, objective, val, config)

        monkeypatch.setattr(profile, "take_step", step)
        monkeypatch.setattr(profile, "score", scoring)
        monkeypatch.setattr(profile.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(profile, "ProfileBudget", lambda *given: ProfileBudget(*given, clock=lambda: self.now))


def test_large_network_is_measured_by_a_few_images_the_ends_first(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, 0.5)
    cost = measure_steps(planned(network=replace(planned().network, num_parameters=22_000_000)))
    assert slow.now < MOST_S
    assert {images for _, images in slow.steps} == {FEW}
    assert set(slow.scored) == {FEW}
    assert list(dict.fromkeys(weight for weight, _ in slow.steps)) == [0.0, 1.0, 0.01]
    assert cost.estimated == f"steps of {FEW} images for 64"
    # 1,150 images of half a second each, in 18 steps of 64
    assert cost.seconds_per_step == pytest.approx((0.5 * 1150 / 18, 0.5 * 1150 / 18))
    assert cost.seconds_per_val_image == pytest.approx(0.5 / 3)
    assert cost.checkpoint_bytes > 0


def test_settings_are_left_out_when_the_time_is_over(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, 15.0)
    cost = measure_steps(planned(network=replace(planned().network, num_parameters=22_000_000)))
    assert len(slow.steps) == 1  # of 30 seconds, which nothing can divide
    assert cost.estimated == f"steps of {FEW} images for 64 and 1 of 4 configurations"


def test_network_that_turns_out_to_be_slow_is_measured_by_less_from_then_on(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, 0.1)
    cost = measure_steps(planned())
    assert slow.now < MOST_S
    assert [images for _, images in slow.steps][:2] == [64, FEW]
    assert set(slow.scored) == {FEW}
    assert "4 configurations" not in cost.estimated


def test_steps_on_a_gpu_stay_whole_since_they_are_weighed() -> None:
    clock = iter([0.0, 1.0, 30.0, 40.0])
    pace = ProfileBudget(None, 3, clock=lambda: next(clock))
    assert pace.begin_config(enough=False)
    pace.record_step(10.0)
    assert pace.num_images(512, 1) == 512
    assert not pace.begin_config(enough=True)


def test_pieces_of_a_batch_have_an_image_each() -> None:
    assert ProfileBudget(2 * LARGE, 1).num_images(64, 8) == 8
    assert ProfileBudget(2 * LARGE, 1).num_images(1, 1) == 1
    assert ProfileBudget(LARGE / 2, 1).num_images(64, 8) == 64


def test_terminal_is_told_what_is_measured_and_a_log_is_not() -> None:
    for terminal in (True, False):
        out = io.StringIO()
        with ProfileBudget(2 * LARGE, 4, console=Console(file=out, force_terminal=terminal, width=200)) as pace:
            pace.begin_config(enough=False)
        assert ("configuration 1 of 4, a few images at a time" in out.getvalue()) is terminal
        assert ("--no-measure" in out.getvalue()) is terminal


def test_plan_says_that_it_is_an_estimate(planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    work = RemainingWork(trials=2, full_runs=2, epochs=3, max_concurrent=2, gpus=0.0)
    plan = planned()
    monkeypatch.setattr(
        total_estimate, "profile_steps", lambda *_, **__: replace(COST, estimated="steps of 2 images for 64")
    )
    lines = total_estimate.estimate_searches([plan], [(plan, work)]).describe()
    assert "an estimate, scaled up from a shorter measurement: steps of 2 images for 64" in lines[1]
    monkeypatch.setattr(total_estimate, "profile_steps", lambda *_, **__: COST)
    assert not any(
        "an estimate" in line for line in total_estimate.estimate_searches([plan], [(plan, work)]).describe()
    )


def test_busy_machine_gets_no_estimate_of_time_and_refuses_no_budget(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = RemainingWork(trials=2, full_runs=2, epochs=3, max_concurrent=2, gpus=0.0)
    plan = planned({"search.budget.hours": 1e-9})
    busy = replace(COST, estimated="steps of 2 images for 64", busy=profile._describe_load(1e6))
    monkeypatch.setattr(total_estimate, "profile_steps", lambda *_, **__: busy)
    lines = total_estimate.estimate_searches([plan], [(plan, work)]).describe()
    assert lines[0].startswith("expected  no estimate of time: the machine is busy (load average 1000000 on ")
    assert [line[:8] for line in lines] == ["expected", "disk    "]
    assert profile._describe_load(1.0) == ""


def test_ends_are_measured_first_only_in_a_hurry() -> None:
    assert ProfileBudget(2 * LARGE, 4).order_configs() == [0, 3, 2, 1]
    assert ProfileBudget(0.0, 4).order_configs() == [0, 1, 2, 3]
    assert ProfileBudget(2 * LARGE, 1).order_configs() == [0]
