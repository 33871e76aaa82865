"""The average of a network's weights over training, timm's: what is scored and kept where the recipe asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from pipeline.train.train_config import TrainConfig


class WeightAverage:
    """An exponential moving average of a network's parameters and buffers.

    After step n, counted from 1, average = d average + (1 - d) weights with d = min(decay, 1 - n^(-2/3)), which is
    timm's warm-up: without it a short run would keep much of its first weights. Is made of the weights that the
    network then has, before taps are let into it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._ema = ModelEmaV3(model, decay=decay, use_warmup=True)

    @property
    def model(self) -> nn.Module:
        """A network that has the averaged weights."""
        averaged: nn.Module = self._ema.module
        return averaged

    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after a step, counted from 1, into the average."""
        self._ema.update(model, step=step)

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """The network, its taps included, has the averaged weights inside, and afterwards its own, bit for bit."""
        _exchange(model, self.model)
        try:
            yield
        finally:
            _exchange(model, self.model)


def make_average(model: nn.Module, config: TrainConfig) -> WeightAverage | None:
    """The average that the recipe asks for, or None."""
    return WeightAverage(model, config.ema_decay) if config.ema_decay else None


@torch.no_grad()
def _exchange(first: nn.Module, second: nn.Module) -> None:
    others: dict[str, Tensor] = second.state_dict()
    for name, own in first.state_dict().items():
        kept = own.clone()
        own.copy_(others[name])
        others[name].copy_(kept)
