"""What tests compare of training runs."""

import torch
from torch import Tensor, nn

from pipeline.train.loop import Epoch


def untimed(epoch: Epoch) -> dict[str, float]:
    """An epoch's metrics, but for the time that it took."""
    return {name: value for name, value in epoch.metrics.items() if name != "seconds"}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two networks' tensors are equal to the bit."""
    return all(torch.equal(first[name], second[name]) for name in first)
