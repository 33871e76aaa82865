"""Utilisation, memory and power of a GPU, read from NVML (NVIDIA's management library) by a sampling thread.

The metrics have the names that MLflow gives its system metrics. `gpu_0` is the GPU that the process trains
on, whatever its number on the machine. If several processes share the GPU, the values are for all of them
together.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, Self

GPU = "system/gpu_0_utilization_percentage"
"""Percentage of the time in which any kernel ran; a kernel may use only a small part of the GPU."""
GPU_MEMORY = "system/gpu_0_memory_usage_megabytes"
GPU_MEMORY_SHARE = "system/gpu_0_memory_usage_percentage"
GPU_POWER = "system/gpu_0_power_usage_watts"

NVML = "cuda.bindings.nvml"
"""Module that torch installs on Linux."""

INTERVAL_S = 0.5
"""Seconds between two samples. The driver's own samples cover a sixth of a second to one second, depending on
the GPU.
"""

MEGABYTE = 1e6


class GpuSampler:
    """Context manager that samples one GPU; `read` returns means since the last `begin`.

    Args:
        nvml: The module `cuda.bindings.nvml`, initialised. It is shut down on leaving.
        handle: NVML's handle of the GPU.
        interval_s: Seconds between two samples.
    """

    def __init__(self, nvml: Any, handle: Any, interval_s: float = INTERVAL_S) -> None:
        self._nvml, self._handle, self._interval_s = nvml, handle, interval_s
        self._samples: dict[str, list[float]] = defaultdict(list)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="gpu-usage", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the thread and shuts NVML down."""
        self._stop.set()
        self._thread.join(2 * self._interval_s)  # the thread takes longer only if the driver does not answer
        with suppress(Exception):
            self._nvml.shutdown()

    def begin(self) -> None:
        """Discards all samples so far."""
        with self._lock:
            self._samples.clear()

    def read(self) -> dict[str, float]:
        """Returns the mean of each metric by name. If no sample was taken yet, takes one."""
        with self._lock:
            empty = not self._samples
        if empty:
            self._sample()
        with self._lock:
            return {name: sum(values) / len(values) for name, values in self._samples.items()}

    def _work(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        for ask in (self._utilization, self._memory, self._power):
            found: Mapping[str, float] = {}
            # A GPU, its driver or a container may not provide a metric. It is left out, and training goes on.
            with suppress(Exception):
                found = ask()
            with self._lock:
                for name, value in found.items():
                    self._samples[name].append(value)

    def _utilization(self) -> dict[str, float]:
        return {GPU: float(self._nvml.device_get_utilization_rates(self._handle).gpu)}

    def _memory(self) -> dict[str, float]:
        memory = self._nvml.device_get_memory_info_v2(self._handle)
        return {GPU_MEMORY: memory.used / MEGABYTE, GPU_MEMORY_SHARE: 100 * memory.used / memory.total}

    def _power(self) -> dict[str, float]:
        return {GPU_POWER: self._nvml.device_get_power_usage(self._handle) / 1000}


def open_gpu(uuid: str, interval_s: float = INTERVAL_S) -> GpuSampler | None:
    """Returns the sampler of a GPU, not started yet.

    Args:
        uuid: As `torch.cuda.get_device_properties` has it, without NVML's prefix.
        interval_s: Seconds between two samples.

    Returns:
        The sampler. None without NVML, or if NVML does not find the GPU or denies access.
    """
    with suppress(Exception):  # no module, no driver, no permission, or a driver without one of the functions
        nvml = import_module(NVML)
        nvml.init_v2()
        for kind in ("GPU", "MIG"):  # a whole GPU, or a MIG partition of one
            with suppress(Exception):
                return GpuSampler(nvml, nvml.device_get_handle_by_uuid(f"{kind}-{uuid}"), interval_s)
        nvml.shutdown()
    return None
