"""Averages of a network's weights over training, by timm; if the recipe asks for one, it is scored and stored."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from pipeline.train.train_config import TrainConfig


class WeightAverage:
    """An exponential moving average of a network's parameters and buffers.

    After step n, counted from 1, average = d average + (1 - d) weights with d = min(decay, 1 - n^(-2/3)). This is
    timm's warm-up; without it, the first weights would dominate the average of a short run. The average must be made
    before taps are attached to the network, and starts from the network's weights at that time.

    Args:
        model: the network.
        decay: largest decay d.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._ema = ModelEmaV3(model, decay=decay, use_warmup=True)

    @property
    def model(self) -> nn.Module:
        """A network with the averaged weights."""
        averaged: nn.Module = self._ema.module
        return averaged

    def update(self, model: nn.Module, step: int) -> None:
        """Adds the weights after a step, counted from 1, to the average."""
        self._ema.update(model, step=step)


@contextmanager
def swapped_weights(model: nn.Module, averaged: nn.Module) -> Iterator[None]:
    """Gives a network the weights of another inside the `with` block, and afterwards its own again, bit for bit.

    Args:
        model: the network.
        averaged: a network of the same shape, which has the network's weights meanwhile.
    """
    _exchange(model, averaged)
    try:
        yield
    finally:
        _exchange(model, averaged)


def make_average(model: nn.Module, config: TrainConfig) -> WeightAverage | None:
    """Returns the weight average that the recipe asks for, or None if it asks for none.

    Args:
        model: the network.
        config: the recipe.
    """
    return WeightAverage(model, config.ema_decay) if config.ema_decay else None


@torch.no_grad()
def _exchange(first: nn.Module, second: nn.Module) -> None:
    """Exchanges the weights of two networks in place."""
    others: dict[str, Tensor] = second.state_dict()
    for name, own in first.state_dict().items():
        kept = own.clone()
        own.copy_(others[name])
        others[name].copy_(kept)
