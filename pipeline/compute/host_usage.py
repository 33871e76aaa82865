"""How much of CPU and memory is used, by this process and by the whole machine, as the kernel counts it.

Named as MLflow names its system metrics (`mlflow.system_metrics`), where it has them; it has no name for what a process
uses. Each number is written to the tracking store every epoch, so none follows from another. What the kernel does not
tell, in a container or for want of a right, is left out.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

PROCESS_CPU = "system/process_cpu_utilization_percentage"
"""Of the cores that the process was given: CPU time of all its threads and of the children that it has waited for."""
PROCESS_MEMORY = "system/process_memory_usage_megabytes"
"""Resident memory of the process alone; pages of mapped files count, though other processes may share them."""
MACHINE_CPU = "system/cpu_utilization_percentage"
MACHINE_MEMORY = "system/system_memory_usage_percentage"

MEGABYTE = 1e6


@dataclass(frozen=True)
class CpuTimes:
    """Seconds so far: by the clock, of CPU that this process has had, and of the machine's CPUs, the busy ones and all.

    machine: None where it is not told.
    """

    clock: float
    process: float
    machine: tuple[float, float] | None


def cpu_times() -> CpuTimes:
    """What the kernel has counted until now."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = time.process_time() + children.ru_utime + children.ru_stime
    machine = _ask_kernel(psutil.cpu_times)
    if machine is None:
        return CpuTimes(time.perf_counter(), process, None)
    # Time of guests is within that of users.
    everything = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    return CpuTimes(time.perf_counter(), process, (everything - idle, everything))


def cpu_usage(since: CpuTimes, cores: int) -> dict[str, float]:
    """By name, from `since` until now. cores: those that the process was given; with more it is above 100."""
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
    """By name, now."""
    usage = {}
    if (own := _ask_kernel(lambda: psutil.Process().memory_info())) is not None:
        usage[PROCESS_MEMORY] = own.rss / MEGABYTE
    if (machine := _ask_kernel(psutil.virtual_memory)) is not None:
        usage[MACHINE_MEMORY] = 100 * machine.used / machine.total
    return usage


def _ask_kernel(ask: Callable[[], Any]) -> Any:
    """An answer; None where there is none: what is measured beside training must not end it."""
    try:
        return ask()
    except (OSError, psutil.Error, RuntimeError, ValueError):
        return None
