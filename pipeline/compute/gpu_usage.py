"""How much of a GPU is used, as NVML (NVIDIA's management library) says, sampled by a thread.

Named as MLflow names its system metrics. `gpu_0` is the GPU that the process trains on, whatever number the machine
gives it; of a GPU that several processes share, it is what all of them use.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, Self

GPU = "system/gpu_0_utilization_percentage"
"""Share of the time in which any kernel ran, which may have used a small part of the GPU."""
GPU_MEMORY = "system/gpu_0_memory_usage_megabytes"
GPU_MEMORY_SHARE = "system/gpu_0_memory_usage_percentage"
GPU_POWER = "system/gpu_0_power_usage_watts"

NVML = "cuda.bindings.nvml"
"""The module that torch brings on Linux."""

INTERVAL_S = 0.5
"""Between two samples. The driver's own are of the last sixth of a second to one second, by the GPU's kind."""

MEGABYTE = 1e6


class GpuSampler:
    """Samples one GPU from `begin` on; `read` gives the means since then. Used with `with`.

    nvml: the module `cuda.bindings.nvml`, initialised. handle: NVML's, of the GPU.
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
        self._stop.set()
        self._thread.join(2 * self._interval_s)  # longer only where the driver does not answer
        with suppress(Exception):
            self._nvml.shutdown()

    def begin(self) -> None:
        """Forget what has been sampled so far."""
        with self._lock:
            self._samples.clear()

    def read(self) -> dict[str, float]:
        """Means by name; of a time that was shorter than the interval, one sample of now."""
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
            # Of what a GPU, its driver or a container does not tell, there is none; training goes on all the same.
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
    """The sampler of a GPU; None without NVML, or where NVML does not know the GPU or may not be asked.

    Args:
        uuid: As `torch.cuda.get_device_properties` has it, without NVML's prefix.
        interval_s: Seconds between samples.
    """
    with suppress(Exception):  # there is no module, no driver, no right to ask it, or a function that it lacks
        nvml = import_module(NVML)
        nvml.init_v2()
        for kind in ("GPU", "MIG"):  # a whole GPU, or a part of one as its administrator has cut it
            with suppress(Exception):
                return GpuSampler(nvml, nvml.device_get_handle_by_uuid(f"{kind}-{uuid}"), interval_s)
        nvml.shutdown()
    return None
