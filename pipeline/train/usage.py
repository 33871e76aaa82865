"""Use of the machine in an epoch: CPU and memory, the GPU, and the share of its time that training waited for data."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol, Self, TypeVar

import torch

from pipeline.compute.gpu_usage import GpuSampler, open_gpu
from pipeline.compute.host_usage import cpu_times, cpu_usage, memory_usage
from pipeline.compute.usage_summary import DATA_WAIT

T = TypeVar("T")


class UsageMeter:
    """Meter of epochs, one after another: call `begin`, pass the batches through `timed`, then call `read`.
    Used with `with`.

    Args:
        device: device of the training.
        cores: number of CPU cores that the training may use; None: the number of torch's threads.
    """

    def __init__(self, device: torch.device, *, cores: int | None = None) -> None:
        self._cores = torch.get_num_threads() if cores is None else cores
        self._wait: _Wait = _GpuWait(device) if device.type == "cuda" else _HostWait()
        self._gpu: GpuSampler | None = None
        if device.type == "cuda":
            uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
            self._gpu = None if uuid is None else open_gpu(str(uuid))
        self._began = cpu_times()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self._gpu is not None:
            self._open.enter_context(self._gpu)
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the GPU's sampler."""
        self._open.close()

    def begin(self) -> None:
        """Marks the beginning of an epoch."""
        self._wait.clear()
        if self._gpu is not None:
            self._gpu.begin()
        self._began = cpu_times()

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches unchanged, and counts the time until each is available as waiting."""
        began = self._wait.mark()
        for batch in batches:
            self._wait.add(began, self._wait.mark())
            yield batch
            began = self._wait.mark()
        self._wait.add(began, self._wait.mark())

    def read(self) -> dict[str, float]:
        """Returns the use since `begin`, by MLflow's names of system metrics, or by our own if MLflow has none."""
        waited = self._wait.seconds()  # first, since on a GPU this waits until its queued work is done
        usage = cpu_usage(self._began, self._cores)
        seconds = time.perf_counter() - self._began.clock
        usage |= memory_usage()
        if self._gpu is not None:
            usage |= self._gpu.read()
        if seconds > 0:
            usage[DATA_WAIT] = 100 * min(1.0, waited / seconds)
        return {name: round(value, 2) for name, value in usage.items()}


class _Wait(Protocol):
    """Sum of the times between marks."""

    def mark(self) -> Any: ...
    def add(self, began: Any, ended: Any) -> None: ...
    def clear(self) -> None: ...
    def seconds(self) -> float: ...


class _HostWait:
    """Waiting time by the clock of the CPU, for training on a CPU."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def mark(self) -> float:
        return time.perf_counter()

    def add(self, began: float, ended: float) -> None:
        self._seconds += ended - began

    def clear(self) -> None:
        self._seconds = 0.0

    def seconds(self) -> float:
        return self._seconds


class _GpuWait:
    """Waiting time by the clock of a GPU.

    The CPU's clock cannot be used, since the CPU asks for the next batch while the GPU still computes. Marks
    are events in the GPU's queue. An event is reached when all work before it is done. The time between the
    end of a step and the next batch is therefore only the time in which the GPU had no step to compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._spans: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._milliseconds = 0.0

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def add(self, began: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        self._spans.append((began, ended))
        while self._spans[0][1].query():  # type: ignore[no-untyped-call]
            self._take()
            if not self._spans:
                return

    def clear(self) -> None:
        self._spans.clear()
        self._milliseconds = 0.0

    def seconds(self) -> float:
        while self._spans:
            self._spans[0][1].synchronize()
            self._take()
        return self._milliseconds / 1000

    def _take(self) -> None:
        began, ended = self._spans.popleft()
        self._milliseconds += began.elapsed_time(ended)
