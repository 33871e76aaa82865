"""Forward and backward passes in training as kernels that torch makes for them, where a run is long enough to pay."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.train.train_config import TrainConfig

AUTO_STEPS = 2000
"""A run on CUDA that takes fewer steps is not compiled under `auto`: minutes of compiling would be most of it."""


def is_worth_compiling(config: TrainConfig, device: torch.device, steps: int) -> bool:
    """Whether a run of so many steps is to be compiled.

    Under `auto` on a CPU never (docs/performance.md has the figures). Networks whose blocks are computed again
    going backward are not compiled at all.
    """
    if config.compile == "never" or config.grad_checkpointing:
        return False
    return config.compile == "always" or (device.type == "cuda" and steps >= AUTO_STEPS)


def lacks_compiler(device: torch.device) -> bool:
    """Whether what torch.compile needs beyond torch is missing: on a CPU a C++ compiler, CXX or the usual ones."""
    known = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return device.type == "cpu" and not any(shutil.which(each) for each in known)


@contextmanager
def compile_network(model: nn.Module, config: TrainConfig, *, device: torch.device, steps: int) -> Iterator[None]:
    """Inside, the network is compiled when it is first called, its taps with it, if that pays over so many steps.

    Taps are made before. Every size of batch is compiled for itself; an epoch has two at most.
    """
    if not is_worth_compiling(config, device, steps):
        yield
        return
    model.compile(dynamic=False)
    try:
        yield
    finally:
        model._compiled_call_impl = None


@contextmanager
def original_network() -> Iterator[None]:
    """Inside, compiled networks run as if they were not: for scoring, whose few batches do not pay a compilation."""
    with torch.compiler.set_stance("force_eager"):
        yield
