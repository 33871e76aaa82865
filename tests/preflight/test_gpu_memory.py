"""Claims about GPU memory: a step that does not fit is refused, and how many trials a GPU holds is told."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.example_plans import COST

from pipeline.errors import UserError
from pipeline.preflight.estimate import (
    PROCESS_BYTES,
    RESERVED,
    Estimate,
    check_memory,
    describe_gpu_memory,
    trials_per_gpu,
)
from pipeline.preflight.plan import Plan
from pipeline.tune.task import Resources


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 10 GB."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=10_000_000_000))


def on_gpu(share: float) -> dict[str, Any]:
    return {"device": "cuda", "resources": Resources(1, share, 2, 2, 1)}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("share", "fits"), [(1.0, 10_000_000_000), (0.25, 2_500_000_000), (2.0, 10_000_000_000)])
def test_step_beyond_the_share_of_a_gpu_is_refused(planned: Callable[..., Plan], share: float, fits: int) -> None:
    plan = planned(**on_gpu(share))
    check_memory(replace(COST, memory_bytes=fits), plan)
    with pytest.raises(UserError, match=r"^params\.yaml: .*train\.accumulate to 2.*It needs .* GB; there are"):
        check_memory(replace(COST, memory_bytes=fits + 1), plan)


@pytest.mark.usefixtures("gpu")
def test_refusal_of_memory_tells_both_sizes_and_the_share(planned: Callable[..., Plan]) -> None:
    with pytest.raises(UserError) as refused:
        check_memory(replace(COST, memory_bytes=4_000_000_000), planned(**on_gpu(0.25)))
    assert "25% of a GPU (search.gpus_per_trial 0.25)" in str(refused.value)
    assert str(refused.value).endswith("It needs 4.0 GB; there are 2.5 GB.")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("memory", "resources", "said"),
    [
        (500_000_000, Resources(1, 1, 8, 64, 1), "a GPU holds 8: search.gpus_per_trial: 0.125"),
        (500_000_000, Resources(1, 0.5, 8, 64, 1), "a GPU holds 8: search.gpus_per_trial: 0.125"),
        (500_000_000, Resources(2, 1, 8, 6, 1), "8, and the CPU cores suffice for 3 on each: search.gpus_per_trial: 0.333"),
        (500_000_000, Resources(1, 1, 8, 6, 2), "8, and the CPU cores suffice for 3 on each: search.gpus_per_trial: 0.333"),
        (500_000_000, Resources(1, 1, 1, 1, 1), "8, and the CPU cores suffice for 1 on each: search.gpus_per_trial: 1"),
        (5_000_000_000, Resources(1, 1, 8, 64, 1), "so a GPU holds one trial"),
        (20_000_000_000, Resources(1, 1, 8, 64, 1), "so a GPU holds one trial"),
    ],
)  # fmt: skip
def test_how_many_trials_a_gpu_holds_is_said(
    planned: Callable[..., Plan], memory: int, resources: Resources, said: str
) -> None:
    line = describe_gpu_memory(replace(COST, memory_bytes=memory), planned(device="cuda", resources=resources))
    assert line.startswith("a trial takes ")
    assert " of the GPU's 10 GB, so " in line
    assert line.endswith(said)


def test_trials_that_share_a_gpu_fit_with_what_their_processes_take() -> None:
    for memory in (1, 10**6, 10**8, 10**9, 10**11):
        held = trials_per_gpu(memory, 10**11)
        assert held * (memory + PROCESS_BYTES) <= 10**11
        assert (held + 1) * (RESERVED * memory + PROCESS_BYTES) > 10**11


def test_memory_of_a_cpu_is_not_told(planned: Callable[..., Plan]) -> None:
    assert describe_gpu_memory(COST, planned()) == ""
    lines = Estimate((60.0, 60.0), (1.0, 1.0), None, None, gpu_memory="a GPU holds 8").describe()
    assert lines[1:] == ["memory    a GPU holds 8"]


def test_memory_of_a_cpu_is_not_judged(planned: Callable[..., Plan]) -> None:
    check_memory(COST, planned())
