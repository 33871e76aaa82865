"""Compilation of the forward and backward passes in training by torch.compile, where it pays.

On CUDA the passes are recorded as CUDA graphs (torch.compile's mode `reduce-overhead`), so that a small network does
not wait for the launches of its kernels. Loss, regularisers and optimizer stay outside of the graphs.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import nn

from pipeline.train.memory import is_out_of_memory
from pipeline.train.train_config import TrainConfig

Result = TypeVar("Result")

WARM_UP = 5
"""Steps that are not timed: after the begin of a run, and after its network is compiled. The first ones compile it,
allocate memory and record CUDA graphs."""

TIMED = 20
"""Steps that are timed, eager and compiled; the median counts."""

ASSUMED_SECONDS = 60.0
"""Seconds that compiling takes, as long as this process has not measured it for the network."""

ASSUMED_SAVING = 0.5
"""Share of a step that compiling saves, as long as this process has not measured it for the network. A bold value: if
the saving is smaller, the time of one compilation is lost."""


@dataclass(frozen=True)
class CompileGain:
    """Times of a network's steps before and after it was compiled.

    Attributes:
        eager: seconds of a step without it.
        compiled: seconds of a step with it.
        cost: seconds that the first compiled steps took beyond those of later ones.
    """

    eager: float
    compiled: float
    cost: float

    def pays(self, steps: int) -> bool:
        """Returns whether compiling shortens a run.

        Args:
            steps: steps that are left.
        """
        return (self.eager - self.compiled) * steps > self.cost


def may_compile(config: TrainConfig, device: torch.device) -> bool:
    """Returns whether a recipe's runs may be compiled.

    Under "auto", a run on a CPU never is (docs/performance/step.md has the figures). Networks with gradient
    checkpointing are not compiled at all.

    Args:
        config: the recipe.
        device: device of the runs.
    """
    if config.compile == "never" or config.grad_checkpointing:
        return False
    return config.compile == "always" or device.type == "cuda"


def lacks_compiler(device: torch.device) -> bool:
    """Returns whether torch.compile lacks a program that it needs: on a CPU a C++ compiler, CXX or g++ or clang++.

    Args:
        device: device of the run.
    """
    known = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return device.type == "cpu" and not any(shutil.which(each) for each in known)


def is_compiler_failure(error: BaseException) -> bool:
    """Returns whether an error means that torch.compile could not compile a network, such as for want of a compiler.

    Args:
        error: any error.
    """
    from torch._dynamo.exc import TorchDynamoException  # importing it takes a second, which most runs save

    return isinstance(error, TorchDynamoException)


class StepCompiler:
    """Runs the steps of a training run, and compiles the network at once, later or never.

    With `train.compile: always`, the network is compiled before the first step. With `auto` on CUDA, some steps are
    timed first. The network is compiled if that can shorten the steps that are left by more than compiling takes. Some
    compiled steps are then timed too, and if they are not faster, the run continues without compilation. A later run
    of the same process knows both figures.

    Only whole batches are compiled, as every batch size would need a compilation of its own. An epoch's smaller last
    batch, and all scoring, run without compilation. If the network cannot be compiled, a line says so, and the run
    continues without. It is a context manager: the network is changed inside the `with` block. Taps must be made
    before.

    Args:
        model: the network, changed in place.
        config: the recipe.
        device: device of the run.
        batch: images of a whole batch.
        steps: number of steps that are left in the run.
        shared: whether several workers train the network together.
        say: takes the line that explains why a network is not compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        *,
        device: torch.device,
        batch: int,
        steps: int,
        shared: bool = False,
        say: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self._model, self._config, self._device, self._left = model, config, device, steps
        self._batch, self._shared, self._say = batch, shared, say
        self._sizes = {len(part) for part in np.array_split(range(batch), min(config.accumulate, batch))}
        self._compiled = False
        self._measuring = may_compile(config, device) and config.compile == "auto"
        self._times: list[float] = []
        self._eager = 0.0

    def __enter__(self) -> Self:
        if may_compile(self._config, self._device) and not self._measuring:
            self._compile()
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def run(self, step: Callable[[], Result], *, images: int) -> Result:
        """Runs a training step and returns its result.

        Args:
            step: the step; it is run again if compiling the network fails in it.
            images: images of the batch.
        """
        self._left -= 1
        if not self._measuring or images != self._batch:  # a smaller batch takes less time
            return self._guarded(step)
        started = self._now()
        result = self._guarded(step)
        self._times.append(self._now() - started)
        if len(self._times) == WARM_UP + TIMED:
            self._decide()
        return result

    def _decide(self) -> None:
        seconds = statistics.median(self._times[WARM_UP:])
        if not self._compiled:
            self._eager = seconds
            expected = _MEASURED.get(self._key) or CompileGain(seconds, seconds * (1 - ASSUMED_SAVING), ASSUMED_SECONDS)
            if expected.pays(self._left):
                self._compile()
                self._times.clear()
            else:
                self._measuring = False
            return
        cost = sum(self._times[:WARM_UP]) - WARM_UP * seconds
        _MEASURED[self._key] = CompileGain(self._eager, seconds, cost)
        self._measuring = False
        if seconds >= self._eager:
            self._give_up()

    def _guarded(self, step: Callable[[], Result]) -> Result:
        """Runs a step; if compilation fails in it, it is run again without.

        The network's first call compiles both passes, before it has changed anything.
        """
        if not self._compiled:
            return step()
        try:
            if self._device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call, unused-ignore]
            return step()
        except Exception as error:
            # The memory of CUDA graphs is their own, so it may not suffice where that of eager steps does.
            if not is_compiler_failure(error) and not (self._measuring and is_out_of_memory(error)):
                raise
            reason = str(error).strip().partition("\n")[0]
        self._give_up()
        self._measuring = False
        self._say(f"the network is trained without torch.compile, which failed: {reason}")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # after the handler, which holds on to the step's tensors
        return step()

    def _compile(self) -> None:
        # CUDA graphs reuse the memory of gradients, and several workers keep gradients in buckets. It was never tried.
        graphs = self._device.type == "cuda" and not self._shared
        how: dict[str, Any] = {"mode": "reduce-overhead"} if graphs else {}
        self._model.compile(dynamic=False, **how)
        compiled, plain = self._model._compiled_call_impl, self._model._call_impl
        assert compiled is not None

        def call(inputs: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            whole = self._shared or len(inputs) in self._sizes  # shares of several workers have many sizes
            return (compiled if whole else plain)(inputs, *args, **kwargs)

        self._model._compiled_call_impl = call
        self._compiled = True

    def _give_up(self) -> None:
        self._model._compiled_call_impl = None
        self._compiled = False

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @property
    def _key(self) -> tuple[object, ...]:
        sizes = sum(each.numel() for each in self._model.parameters())
        return type(self._model).__name__, sizes, self._batch, self._config.accumulate, self._device.type


_MEASURED: dict[tuple[object, ...], CompileGain] = {}
"""What this process has measured, by network and batch."""


@contextmanager
def original_network() -> Iterator[None]:
    """Runs compiled networks without their compiled code inside the `with` block.

    It is used for scoring, which has too few batches to pay for a compilation.
    """
    with torch.compiler.set_stance("force_eager"):
        yield
