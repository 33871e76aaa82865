"""What runs used, over their epochs: for tables, reports and the terminal."""

from collections.abc import Iterable, Mapping

from pipeline.compute.gpu_usage import GPU, GPU_MEMORY
from pipeline.compute.host_usage import MACHINE_CPU, PROCESS_CPU, PROCESS_MEMORY
from pipeline.console.format import format_percent

DATA_WAIT = "system/data_wait_percentage"
"""Share of an epoch, validation included, that passed until the next batch was there: read, decoded, augmented, moved
to the device. On a GPU, the share in which it had nothing to do but this."""

SHARES = {"cpu_busy": PROCESS_CPU, "machine_cpu_busy": MACHINE_CPU, "gpu_busy": GPU, "data_wait": DATA_WAIT}
"""Means over the time of epochs, as fractions of 1; `cpu_busy` is of a run's own cores."""
MEMORY = {"memory_mb": PROCESS_MEMORY, "gpu_memory_mb": GPU_MEMORY}
"""The most after any epoch, in megabytes."""


def summarise_usage(epochs: Iterable[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """What epochs used, by the names of `SHARES` and `MEMORY`; what no epoch says is left out.

    epochs: seconds of each, and what it used by name (`pipeline.train.usage`).
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
    """What `summarise_usage` found, in words; nothing of nothing."""
    words = []
    if (cpu := found.get("cpu_busy")) is not None:
        words.append(f"CPU cores {format_percent(cpu)} busy")
    if (gpu := found.get("gpu_busy")) is not None:
        words.append(f"GPU {format_percent(gpu)} busy")
    if (wait := found.get("data_wait")) is not None:
        words.append(f"{format_percent(wait)} of the time waiting for data")
    return ", ".join(words)
