"""Claims about how fast a network is said to be: the right pictures, the median, and a network left as it was."""

import time

import pytest
import torch
from torch import Tensor, nn

from pipeline.score.latency import MANY, images_per_s, latency_ms


class Timed(nn.Module):
    """A network that takes so many seconds an image, and every tenth time far longer. seen: the shapes that came."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seconds, self.now, self.seen = seconds, 0.0, []

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(tuple(images.shape))
        self.now += self.seconds * len(images) * (50 if len(self.seen) % 10 == 0 else 1)
        return self.weight


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Timed:
    timed = Timed(0.002)
    monkeypatch.setattr(time, "perf_counter", lambda: timed.now)
    return timed


def test_latency_is_the_median_of_one_image_in_milliseconds(network: Timed) -> None:
    assert latency_ms(network, (6, 8), 3) == pytest.approx(2.0)
    assert set(network.seen) == {(1, 3, 6, 8)}
    assert len(network.seen) == 35
    assert network.training  # as it was


def test_throughput_is_of_batches_and_ends_early_where_they_are_slow(network: Timed) -> None:
    assert images_per_s(network.eval(), (6, 8), 1) == pytest.approx(500.0)
    assert set(network.seen) == {(MANY, 1, 6, 8)}
    assert not network.training
    network.seconds, network.seen = 1.0, []
    assert images_per_s(network, (6, 8), 1) == pytest.approx(1.0)
    assert len(network.seen) == 5  # two first, and three that are timed


def test_measuring_leaves_the_random_stream_and_the_weights_as_they_were() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert latency_ms(model, (2, 2), 3) > 0
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
