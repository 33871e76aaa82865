"""Claims about what epochs use: waiting for data is the time until a batch is there, and measuring changes nothing."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.run_comparison import same, untimed, weights

from pipeline.compute.host_usage import PROCESS_CPU, PROCESS_MEMORY
from pipeline.compute.usage_summary import DATA_WAIT
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.train import loop, usage
from pipeline.train.loop import Epoch, fit
from pipeline.train.train_config import TrainConfig
from pipeline.train.usage import UsageMeter

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
RECIPE = TrainConfig(
    epochs=2, batch_size=8, lr=2e-3, min_lr=0.0, warmup_epochs=1, weight_decay=0.1, label_smoothing=0.0, clip_grad=None
)
PAUSE_S = 0.02


def run(meter: UsageMeter | None, device: torch.device = CPU, **changes: Any) -> tuple[torch.nn.Module, list[Epoch]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, size=(40, 12, 12, 1), dtype=np.uint8)
    prepared = Prepared(images, np.arange(40, dtype=np.int64) % 2, None, {})
    train, val = (
        ImageBatches(prepared, list(ids), Standardisation((0.4,), (0.3,)), device) for ids in (range(24), range(24, 40))
    )
    torch.manual_seed(0)
    tiny = {"patch_size": 3, "embed_dim": 16, "depth": 1, "num_heads": 2}
    config = ModelConfig("vit_tiny_patch16_224", tiny, "xavier", 0.0)
    model = build_model(config, num_classes=2, image_size=(12, 12), channels=1).to(device)
    return model, list(fit(model, train, RECIPE, val=val, seed=3, meter=meter, **changes))


def test_measuring_changes_no_bit_and_is_no_metric() -> None:
    plain, without = run(None)
    measured, found = run(UsageMeter(CPU))
    assert same(weights(plain), weights(measured))
    assert [untimed(epoch) for epoch in found] == [untimed(epoch) for epoch in without]
    for epoch in found:
        assert {PROCESS_CPU, PROCESS_MEMORY, DATA_WAIT} <= epoch.usage.keys()
        assert all(name.startswith("system/") for name in epoch.usage)
    assert not any(name.startswith("system/") for epoch in found for name in epoch.metrics)


def test_what_is_not_measured_leaves_nothing_and_is_never_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*of: Any) -> None:
        raise AssertionError("it was measured")

    for name in ("cpu_times", "cpu_usage", "memory_usage"):
        monkeypatch.setattr(usage, name, refuse)
    assert [epoch.usage for epoch in run(None)[1]] == [{}, {}]


def slowed(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Has every batch of a method come late."""
    original = getattr(ImageBatches, method)

    def late(self: ImageBatches, *given: Any, **named: Any) -> Iterator[Any]:
        for batch in original(self, *given, **named):
            time.sleep(PAUSE_S)
            yield batch

    monkeypatch.setattr(ImageBatches, method, late)


@pytest.mark.parametrize(("method", "pauses"), [("shuffled", 3), ("in_order", 1)])
def test_time_until_batches_are_there_is_waiting(method: str, pauses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, method)
    for epoch in run(UsageMeter(CPU))[1]:
        waited = epoch.usage[DATA_WAIT] / 100 * epoch.metrics["seconds"]
        assert waited >= 0.98 * pauses * PAUSE_S  # what is told is rounded
        assert epoch.usage[DATA_WAIT] < 100


def test_time_of_steps_is_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.take_step

    def slow(*given: Any, **named: Any) -> Any:
        time.sleep(3 * PAUSE_S)
        return original(*given, **named)

    monkeypatch.setattr(loop, "take_step", slow)
    for epoch in run(UsageMeter(CPU))[1]:
        assert epoch.usage[DATA_WAIT] / 100 * epoch.metrics["seconds"] <= epoch.metrics["seconds"] - 9 * PAUSE_S


def test_feed_that_sleeps_takes_at_least_its_share() -> None:
    def feed() -> Iterator[int]:
        for number in range(5):
            time.sleep(PAUSE_S)
            yield number

    with UsageMeter(CPU) as meter:
        meter.begin()
        began = time.perf_counter()
        found = []
        for number in meter.timed(feed()):
            found.append(number)
            time.sleep(PAUSE_S)
        told, seconds = meter.read(), time.perf_counter() - began
        assert found == list(range(5))
        assert 100 * 5 * PAUSE_S / seconds <= told[DATA_WAIT] + 0.5
        assert told[DATA_WAIT] <= 100 * (1 - 5 * PAUSE_S / seconds) + 0.5
        meter.begin()
        time.sleep(PAUSE_S)
        assert meter.read()[DATA_WAIT] == 0.0  # of an epoch of its own


def test_loop_that_is_left_early_closes_what_feeds_it() -> None:
    closed = []

    def feed() -> Iterator[int]:
        try:
            yield from range(5)
        finally:
            closed.append(True)

    for _ in UsageMeter(CPU).timed(feed()):
        break
    assert closed == [True]


class Timeline:
    """A GPU and the CPU before it: `work` queues work, `think` is the CPU's own; times are in milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = self.device = 0.0
        timeline = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: Any) -> None:
                timeline.device = max(timeline.device, timeline.host)
                self.at = timeline.device

            def query(self) -> bool:
                return self.at <= timeline.host

            def synchronize(self) -> None:
                timeline.host = max(timeline.host, self.at)

            def elapsed_time(self, later: "Event") -> float:
                return later.at - self.at

        monkeypatch.setattr(usage.torch.cuda, "Event", Event)
        monkeypatch.setattr(usage.torch.cuda, "current_stream", lambda device: None)
        monkeypatch.setattr(usage.torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
        monkeypatch.setattr(usage.time, "perf_counter", lambda: self.host / 1000)

    def work(self, milliseconds: float) -> None:
        self.device = max(self.device, self.host) + milliseconds

    def think(self, milliseconds: float) -> None:
        self.host += milliseconds


@pytest.mark.parametrize(
    ("loading", "step", "waited"),
    [
        (1.0, 10.0, 1.0),  # the CPU is ahead: only the first batch is waited for
        (10.0, 2.0, 5 * 10.0 - 4 * 2.0),  # the GPU is done before the next batch is there
    ],
)
def test_gpu_waits_only_while_it_has_no_step_to_compute(
    monkeypatch: pytest.MonkeyPatch, loading: float, step: float, waited: float
) -> None:
    timeline = Timeline(monkeypatch)
    meter = UsageMeter(torch.device("cuda"))

    def feed() -> Iterator[int]:
        for number in range(5):
            timeline.think(loading)
            yield number

    for _ in range(2):  # the second epoch as the first
        meter.begin()
        began = timeline.host
        for _ in meter.timed(feed()):
            timeline.work(step)
        told = meter.read()[DATA_WAIT]
        assert told / 100 * (timeline.host - began) == pytest.approx(waited, rel=0.01)


@pytest.mark.gpu
def test_on_a_gpu_a_slow_feed_is_waiting_and_a_busy_gpu_is_not() -> None:
    device = torch.device("cuda")
    matrix = torch.rand(4096, 4096, device=device)

    def feed(pause: float) -> Iterator[int]:
        for number in range(20):
            time.sleep(pause)
            yield number

    with UsageMeter(device) as meter:
        for pause, work, least, most in ((0.05, 0, 95, 100), (0.0, 50, 0, 20)):
            torch.cuda.synchronize()
            meter.begin()
            for _ in meter.timed(feed(pause)):
                for _ in range(work):
                    matrix = (matrix @ matrix).clamp_(0, 1)
            found = meter.read()
            assert least <= found[DATA_WAIT] <= most
            assert "system/gpu_0_utilization_percentage" in found


@pytest.mark.gpu
def test_on_a_gpu_epochs_are_measured() -> None:
    device = torch.device("cuda")
    for epoch in run(UsageMeter(device), device)[1]:
        assert {DATA_WAIT, "system/gpu_0_utilization_percentage", "system/gpu_0_memory_usage_megabytes"} <= set(
            epoch.usage
        )
        assert 0 < epoch.usage[DATA_WAIT] <= 100
