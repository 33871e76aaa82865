"""Claims about the use of a GPU: what NVML says is sampled, and nothing that NVML does not say ends training."""

import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.compute.gpu_usage import (
    GPU,
    GPU_MEMORY,
    GPU_MEMORY_SHARE,
    GPU_POWER,
    NVML,
    GpuSampler,
    open_gpu,
)

UUID = "ffc79498-8ff3-c2dc-3b0d-fafd804516ae"


class Nvml:
    """NVML's interface to one GPU, by the names of `cuda.bindings.nvml`. rates: what it says one after another."""

    def __init__(self, *rates: int, kind: str = "GPU") -> None:
        self.rates, self.kind, self.opened, self.refused = list(rates), kind, 0, set[str]()

    def _answer(self, name: str, answer: Any) -> Any:
        if name in self.refused:
            raise RuntimeError("NVML: not supported")
        return answer

    def init_v2(self) -> None:
        self.opened += self._answer("init_v2", 1)

    def shutdown(self) -> None:
        self.opened -= 1

    def device_get_handle_by_uuid(self, uuid: str) -> int:
        if uuid != f"{self.kind}-{UUID}":
            raise RuntimeError("NVML: not found")
        return 7

    def device_get_utilization_rates(self, handle: int) -> Any:
        assert handle == 7
        rate = self.rates.pop(0) if len(self.rates) > 1 else self.rates[0]
        return self._answer("device_get_utilization_rates", SimpleNamespace(gpu=rate, memory=1))

    def device_get_memory_info_v2(self, handle: int) -> Any:
        return self._answer("device_get_memory_info_v2", SimpleNamespace(used=30_000_000, total=120_000_000))

    def device_get_power_usage(self, handle: int) -> Any:
        return self._answer("device_get_power_usage", 150_000)


def opened(monkeypatch: pytest.MonkeyPatch, nvml: Nvml, interval_s: float = 60.0) -> GpuSampler | None:
    monkeypatch.setitem(sys.modules, NVML, nvml)
    return open_gpu(UUID, interval_s)


def test_epoch_that_is_shorter_than_the_interval_has_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = opened(monkeypatch, Nvml(40))
    assert gpu is not None
    with gpu:
        gpu.begin()
        assert gpu.read() == {
            GPU: 40.0,
            GPU_MEMORY: 30.0,
            GPU_MEMORY_SHARE: 25.0,
            GPU_POWER: 150.0,
        }


def test_means_are_of_the_samples_since_the_epoch_began(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(90, 10, 20, 60)
    gpu = opened(monkeypatch, nvml)
    assert gpu is not None
    gpu._sample()
    gpu.begin()
    for _ in range(3):
        gpu._sample()
    assert gpu.read()[GPU] == 30.0
    gpu.begin()
    assert gpu.read()[GPU] == 60.0


def test_thread_samples_until_the_run_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(*range(1000))
    gpu = opened(monkeypatch, nvml, interval_s=0.001)
    assert gpu is not None
    with gpu:
        gpu.begin()
        deadline = time.monotonic() + 10
        while len(nvml.rates) > 990:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert 0 < gpu.read()[GPU] < 999
    assert not any(thread.name == "gpu-usage" for thread in threading.enumerate())
    left = len(nvml.rates)
    time.sleep(0.01)
    assert len(nvml.rates) == left
    assert nvml.opened == 0


@pytest.mark.parametrize(
    ("refused", "gone"),
    [
        ("device_get_utilization_rates", {GPU}),  # as of a part of a GPU
        ("device_get_memory_info_v2", {GPU_MEMORY, GPU_MEMORY_SHARE}),
        ("device_get_power_usage", {GPU_POWER}),
    ],
)
def test_what_the_gpu_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch, refused: str, gone: set[str]) -> None:
    nvml = Nvml(40)
    nvml.refused = {refused}
    gpu = opened(monkeypatch, nvml)
    assert gpu is not None
    assert {GPU, GPU_MEMORY, GPU_MEMORY_SHARE, GPU_POWER} - gpu.read().keys() == gone


def test_without_nvml_there_is_no_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NVML, None)  # as an import that fails
    assert open_gpu(UUID) is None
    silent = Nvml(1)
    silent.refused = {"init_v2"}  # no driver
    assert opened(monkeypatch, silent) is None
    unknown = Nvml(1, kind="other")
    assert opened(monkeypatch, unknown) is None
    assert unknown.opened == 0


def test_part_of_a_gpu_is_found_by_its_own_kind_of_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch, Nvml(1, kind="MIG")) is not None


def test_real_module_has_what_is_asked_of_it() -> None:
    real = pytest.importorskip(NVML)
    for name in (each for each in vars(Nvml) if not each.startswith("_")):
        assert callable(getattr(real, name))
    assert real.Utilization().gpu == 0
    assert (real.Memory_v2().used, real.Memory_v2().total) == (0, 0)


def test_what_mlflow_measures_of_gpus_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics import gpu_monitor

    theirs = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: 7,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=30_000_000, total=120_000_000),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=40),
        nvmlDeviceGetPowerUsage=lambda handle: 150_000,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 600_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", theirs)
    monkeypatch.setattr(gpu_monitor, "pynvml", theirs, raising=False)
    monitor = gpu_monitor.GPUMonitor()
    monitor.collect_metrics()
    gpu = opened(monkeypatch, Nvml(40))
    assert gpu is not None
    theirs = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
    assert gpu.read().items() <= theirs.items()


@pytest.mark.gpu
def test_gpu_that_computes_is_busy_and_holds_what_it_was_given() -> None:
    import torch

    gpu = open_gpu(str(torch.cuda.get_device_properties(0).uuid), interval_s=0.1)
    assert gpu is not None
    with gpu:
        gpu.begin()
        before = gpu.read()[GPU_MEMORY]
        held = torch.ones(2**28, device="cuda")  # 1,074 MB
        matrix = torch.rand(4096, 4096, device="cuda")
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            for _ in range(20):
                matrix = (matrix @ matrix).clamp_(0, 1)
            torch.cuda.synchronize()
        gpu.begin()
        assert gpu.read()[GPU] >= 80
        assert gpu.read()[GPU_MEMORY] - before >= 1.9 * held.numel() * 2e-6
