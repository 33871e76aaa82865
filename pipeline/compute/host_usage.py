"""CPU and memory usage of this process and of the whole machine, as counted by the kernel.

Metrics have MLflow's names (`mlflow.system_metrics`) where there is one; MLflow has none for the usage of a
process. Each value is logged to the tracking store every epoch, so no metric is one that follows from
another. Values that the kernel does not provide, in a container or for lack of permission, are left out.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

PROCESS_CPU = "system/process_cpu_utilization_percentage"
"""Percentage of the cores assigned to the process: CPU time of its threads and of children it has waited for."""
PROCESS_MEMORY = "system/process_memory_usage_megabytes"
"""Resident memory of the process alone. Pages of mapped files count, though other processes may share them."""
MACHINE_CPU = "system/cpu_utilization_percentage"
MACHINE_MEMORY = "system/system_memory_usage_percentage"

MEGABYTE = 1e6


@dataclass(frozen=True)
class CpuTimes:
    """Seconds counted so far.

    Attributes:
        clock: Wall-clock time, from an arbitrary start.
        process: CPU time of this process and of the children that it has waited for.
        machine: (busy, total) time of all CPUs of the machine; None if the kernel does not provide it.
    """

    clock: float
    process: float
    machine: tuple[float, float] | None


def cpu_times() -> CpuTimes:
    """Returns the kernel's counters as of now."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = time.process_time() + children.ru_utime + children.ru_stime
    machine = _ask_kernel(psutil.cpu_times)
    if machine is None:
        return CpuTimes(time.perf_counter(), process, None)
    # The kernel counts the time of guests within that of users.
    everything = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    return CpuTimes(time.perf_counter(), process, (everything - idle, everything))


def cpu_usage(since: CpuTimes, cores: int) -> dict[str, float]:
    """Returns CPU usage between `since` and now, as percentages by metric name.

    Args:
        since: Counters at the start of the interval.
        cores: Cores assigned to the process. If it uses more, its percentage is above 100.
    """
    now = cpu_times()
    seconds = now.clock - since.clock
    usage = {}
    if seconds > 0:
        usage[PROCESS_CPU] = 100 * max(0.0, now.process - since.process) / (seconds * max(1, cores))
    if now.machine is not None and since.machine is not None:
        busy, everything = (after - before for after, before in zip(now.machine, since.machine, strict=True))
        if everything > 0:  # the kernel counts in hundredths of a second
            usage[MACHINE_CPU] = 100 * min(1.0, max(0.0, busy / everything))
    return usage


def memory_usage() -> dict[str, float]:
    """Returns the current memory usage by metric name."""
    usage = {}
    if (own := _ask_kernel(lambda: psutil.Process().memory_info())) is not None:
        usage[PROCESS_MEMORY] = own.rss / MEGABYTE
    if (machine := _ask_kernel(psutil.virtual_memory)) is not None:
        usage[MACHINE_MEMORY] = 100 * machine.used / machine.total
    return usage


def _ask_kernel(ask: Callable[[], Any]) -> Any:
    """Returns the answer of `ask`, or None if it fails: a measurement must not end the training."""
    try:
        return ask()
    except (OSError, psutil.Error, RuntimeError, ValueError):
        return None
