"""Resource usage of runs, summarised over their epochs for tables, reports and the terminal."""

from collections.abc import Iterable, Mapping

from pipeline.compute.gpu_usage import GPU, GPU_MEMORY
from pipeline.compute.host_usage import MACHINE_CPU, PROCESS_CPU, PROCESS_MEMORY
from pipeline.console.format import format_percent

DATA_WAIT = "system/data_wait_percentage"
"""Percentage of an epoch, validation included, that was spent waiting for the next batch.

The wait includes reading, decoding, augmenting and moving it to the device. On a GPU, it is the share of time
in which the GPU was idle for this reason.
"""

SHARES = {"cpu_busy": PROCESS_CPU, "machine_cpu_busy": MACHINE_CPU, "gpu_busy": GPU, "data_wait": DATA_WAIT}
"""Metrics that are averaged over the time of the epochs, as fractions of 1. `cpu_busy` refers to the cores of
the run.
"""
MEMORY = {"memory_mb": PROCESS_MEMORY, "gpu_memory_mb": GPU_MEMORY}
"""Metrics whose maximum over the epochs is taken, in megabytes."""


def summarise_usage(epochs: Iterable[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Returns usage over several epochs, by the names of `SHARES` and `MEMORY`, as far as the epochs have them.

    Args:
        epochs: Seconds of each epoch, and its usage by metric name (`pipeline.train.usage`).
    """
    measured = [(seconds, usage) for seconds, usage in epochs if usage]
    found = {}
    for name, metric in SHARES.items():
        known = [(seconds, usage[metric]) for seconds, usage in measured if metric in usage]
        if (total := sum(seconds for seconds, _ in known)) > 0:
            found[name] = round(sum(seconds * value for seconds, value in known) / total / 100, 4)
    for name, metric in MEMORY.items():
        if values := [usage[metric] for _, usage in measured if metric in usage]:
            found[name] = round(max(values), 1)
    return found


def describe_usage(found: Mapping[str, float]) -> str:
    """Returns a summary in words; empty if there are no values.

    Args:
        found: As `summarise_usage` returns it.
    """
    words = []
    if (cpu := found.get("cpu_busy")) is not None:
        words.append(f"CPU cores {format_percent(cpu)} busy")
    if (gpu := found.get("gpu_busy")) is not None:
        words.append(f"GPU {format_percent(gpu)} busy")
    if (wait := found.get("data_wait")) is not None:
        words.append(f"{format_percent(wait)} of the time waiting for data")
    return ", ".join(words)
