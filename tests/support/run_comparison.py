"""What tests compare of training runs."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from pipeline.train.loop import Epoch


def untimed(epoch: Epoch) -> dict[str, float]:
    """An epoch's metrics, but for the time that it took."""
    return {name: value for name, value in epoch.metrics.items() if name != "seconds"}


def check_rounded_alike(found: Mapping[str, float], expected: Mapping[str, float]) -> None:
    """Check that metrics of two runs in float32 differ by rounding alone, whatever the processor rounds.

    Losses are compared closely. Rounding may change the answer for single images, and move pixels across a map's cut,
    so accuracies and entropies may differ by a few of them.
    """
    timed = {"seconds"}
    assert found.keys() - timed == expected.keys() - timed
    for name in expected.keys() - timed:
        close = name.endswith(("loss", "cross_entropy", "/lr", "/weight"))
        assert found[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-6 if close else 0.06), name


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two networks' tensors are equal to the bit."""
    return all(torch.equal(first[name], second[name]) for name in first)
