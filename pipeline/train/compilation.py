"""Compilation of the forward and backward passes in training by torch.compile, for runs that are long enough."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.train.train_config import TrainConfig

AUTO_STEPS = 2000
"""Under "auto", a run on CUDA with fewer steps is not compiled: minutes of compiling would be most of its time."""


def is_worth_compiling(config: TrainConfig, device: torch.device, steps: int) -> bool:
    """Returns whether a run is compiled.

    Under "auto", a run on a CPU never is (docs/performance.md has the figures). Networks with gradient
    checkpointing are not compiled at all.

    Args:
        config: the recipe.
        device: device of the run.
        steps: number of steps of the run.
    """
    if config.compile == "never" or config.grad_checkpointing:
        return False
    return config.compile == "always" or (device.type == "cuda" and steps >= AUTO_STEPS)


def lacks_compiler(device: torch.device) -> bool:
    """Returns whether torch.compile lacks a program that it needs: on a CPU a C++ compiler, CXX or g++ or clang++.

    Args:
        device: device of the run.
    """
    known = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return device.type == "cpu" and not any(shutil.which(each) for each in known)


@contextmanager
def compile_network(model: nn.Module, config: TrainConfig, *, device: torch.device, steps: int) -> Iterator[None]:
    """Compiles a network and its taps inside the `with` block, if that pays over the steps of a run.

    Compilation begins at the network's first call. Taps must be made before. Every batch size is compiled
    separately; an epoch has at most two.

    Args:
        model: the network, changed in place.
        config: the recipe.
        device: device of the run.
        steps: number of steps of the run.
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
    """Runs compiled networks without their compiled code inside the `with` block.

    It is used for scoring, which has too few batches to pay for a compilation.
    """
    with torch.compiler.set_stance("force_eager"):
        yield
