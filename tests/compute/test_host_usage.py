"""Claims about the use of CPU and memory: the kernel's own figures, read in other ways, say the same."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.compute import host_usage
from pipeline.compute.host_usage import (
    MACHINE_CPU,
    MACHINE_MEMORY,
    PROCESS_CPU,
    PROCESS_MEMORY,
    cpu_times,
    cpu_usage,
    memory_usage,
)

BURNT_S = 0.2


def own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def burn(seconds: float) -> None:
    end = own_seconds() + seconds
    while own_seconds() < end:
        sum(range(1000))


def machine_ticks() -> tuple[int, int]:
    """Of /proc/stat: those that a CPU was busy, and all."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


@pytest.mark.parametrize("cores", [1, 4])
def test_busy_loop_counts_as_its_cpu_time_over_the_time_of_the_cores(cores: int) -> None:
    began, clock, own = cpu_times(), time.perf_counter(), own_seconds()
    burn(BURNT_S)
    time.sleep(BURNT_S)
    clock, own = time.perf_counter() - clock, own_seconds() - own
    assert own >= BURNT_S
    assert cpu_usage(began, cores)[PROCESS_CPU] == pytest.approx(100 * own / clock / cores, rel=0.05)


def test_children_that_were_waited_for_count() -> None:
    began = cpu_times()
    code = f"import time\nwhile time.process_time() < {BURNT_S}: pass"
    subprocess.run([sys.executable, "-S", "-c", code], check=True)
    clock = time.perf_counter() - began.clock
    assert cpu_usage(began, 1)[PROCESS_CPU] >= 90 * BURNT_S / clock


def test_machine_is_as_busy_as_its_own_counters_say() -> None:
    began, (busy, everything) = cpu_times(), machine_ticks()
    burn(2 * BURNT_S)
    found = cpu_usage(began, 1)[MACHINE_CPU]
    busy, everything = (after - before for after, before in zip(machine_ticks(), (busy, everything), strict=True))
    assert found == pytest.approx(100 * busy / everything, abs=10)  # of some 40 ticks a core, one may be of either
    assert found >= 60 / (os.cpu_count() or 1)


def test_memory_is_what_the_kernel_says_in_other_files() -> None:
    found = memory_usage()
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert found[PROCESS_MEMORY] == pytest.approx(int(lines["VmRSS"].split()[0]) * 1.024e-3, rel=0.05)
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {name: int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable")}
    used = kilobytes["MemTotal"] - kilobytes["MemAvailable"]
    assert found[MACHINE_MEMORY] == pytest.approx(100 * used / kilobytes["MemTotal"], abs=5)


def test_memory_that_is_taken_is_seen() -> None:
    before = memory_usage()[PROCESS_MEMORY]
    taken = bytearray(os.urandom(1)) * 200_000_000
    assert memory_usage()[PROCESS_MEMORY] - before == pytest.approx(200, abs=10)
    del taken


def test_what_mlflow_measures_too_has_its_name_and_value() -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

    monitor = CPUMonitor()
    monitor.collect_metrics()
    theirs = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
    assert {MACHINE_CPU, MACHINE_MEMORY} <= theirs.keys()
    assert memory_usage()[MACHINE_MEMORY] == pytest.approx(theirs[MACHINE_MEMORY], abs=2)


@pytest.mark.parametrize("error", [PermissionError("no"), psutil.AccessDenied(), FileNotFoundError("/proc/stat")])
def test_what_the_kernel_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*of: Any) -> None:
        raise error

    for name in ("cpu_times", "virtual_memory", "Process"):
        monkeypatch.setattr(host_usage.psutil, name, refuse)
    began = cpu_times()
    burn(0.01)
    assert cpu_usage(began, 1).keys() == {PROCESS_CPU}
    assert memory_usage() == {}
