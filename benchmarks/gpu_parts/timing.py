"""Times on a device: by its own events on CUDA, by the clock elsewhere; several sides by turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from harness import Timing

Work = Callable[[], object]
Found = TypeVar("Found")


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(work: Work, device: torch.device, calls: int = 1) -> float:
    """Of one call, of so many in a row; what was queued before is not in it, and waiting for the host is."""
    wait(device)
    if device.type != "cuda":
        begun = time.perf_counter()
        for _ in range(calls):
            work()
        return 1000 * (time.perf_counter() - begun) / calls
    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
    begin, end = events
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / calls


def by_turns(
    sides: Mapping[str, Work],
    device: torch.device,
    *,
    rounds: int,
    warm_up: int = 1,
    calls: int = 1,
    seconds: float = float("inf"),
) -> dict[str, Timing]:
    """Milliseconds of every side's call, A B A B ...; no further round begins after so many seconds."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(warm_up):
        for work in sides.values():
            work()
    begun = time.monotonic()
    for turn in range(rounds):
        if turn and time.monotonic() - begun > seconds:
            break
        for name, work in sides.items():
            times[name].append(milliseconds(work, device, calls))
    return {name: Timing(tuple(each)) for name, each in times.items()}


def captured(work: Callable[[], Found], *, warm_up: int = 3) -> tuple[torch.cuda.CUDAGraph, Found]:
    """A CUDA graph of some work, and the tensors in which a replay leaves what it gives; run aside before."""
    aside: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(warm_up):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work()
    return graph, found
