"""A compiled run is the plain one but for rounding, which float64 keeps far below any difference; what is compiled, and
when.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.double_precision import DoubleBatches
from support.run_comparison import untimed
from support.tiny_runs import CONFIG, CPU, images, network, sar
from torch._dynamo.exc import TorchDynamoException

from pipeline.models.freeze import freeze
from pipeline.train import compilation
from pipeline.train.compilation import (
    ASSUMED_SAVING,
    ASSUMED_SECONDS,
    TIMED,
    WARM_UP,
    StepCompiler,
    may_compile,
)
from pipeline.train.loop import fit
from pipeline.train.train_config import TrainConfig

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("how", "device", "again", "expected"),
    [
        ("auto", CPU, False, False),
        ("auto", CUDA, False, True),
        ("auto", CUDA, True, False),
        ("never", CUDA, False, False),
        ("always", CPU, False, True),
        ("always", CPU, True, False),
    ],
)
def test_what_may_be_compiled(how: str, device: torch.device, again: bool, expected: bool) -> None:
    assert may_compile(replace(CONFIG, compile=how, grad_checkpointing=again), device) is expected


class Timed:
    """A run on a pretended GPU, by a clock that only its steps move: `eager` or `compiled` seconds each.

    The first compiled step takes `cost` seconds more. The network is compiled by dynamo alone.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *, eager: float, compiled: float, cost: float) -> None:
        self.eager, self.compiled, self.cost, self.clock = eager, compiled, cost, 0.0
        self.said: list[str] = []
        self.model = torch.nn.Linear(2, 1)
        plain = torch.nn.Module.compile
        patch.setattr(torch.nn.Module, "compile", lambda self, mode, **given: plain(self, backend="eager", **given))
        patch.setattr(StepCompiler, "_now", lambda _: self.clock)
        patch.setattr(compilation, "_MEASURED", {})

    def run(self, steps: int, config: TrainConfig = CONFIG, *, batch: int = 4) -> list[bool]:
        """Whether the network was compiled in each step of a run."""
        found: list[bool] = []
        compiler = StepCompiler(self.model, config, device=CUDA, batch=batch, steps=steps, say=self.said.append)

        def step() -> None:
            found.append(self.model._compiled_call_impl is not None)
            self.clock += self.compiled if found[-1] else self.eager
            self.clock += self.cost if found[-1] and found.count(True) == 1 else 0.0

        with compiler:
            for _ in range(steps):
                compiler.run(step, images=batch)
        assert self.model._compiled_call_impl is None
        return found


SEEN = WARM_UP + TIMED


def test_a_short_run_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = SEEN + round(ASSUMED_SECONDS / (0.125 * ASSUMED_SAVING))
    timed = Timed(monkeypatch, eager=0.125, compiled=0.0625, cost=1.0)
    assert not any(timed.run(steps - 1))


def test_a_long_run_is_compiled_once_its_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = SEEN + round(ASSUMED_SECONDS / (0.125 * ASSUMED_SAVING)) + 2
    timed = Timed(monkeypatch, eager=0.125, compiled=0.0625, cost=1.0)
    assert timed.run(steps) == [False] * SEEN + [True] * (steps - SEEN)


def test_a_run_that_compiling_does_not_shorten_continues_without(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, eager=0.125, compiled=0.125, cost=1.0)
    assert timed.run(5000) == [False] * SEEN + [True] * SEEN + [False] * (5000 - 2 * SEEN)
    assert not any(timed.run(5000))  # the process knows it now


def test_a_later_run_of_the_process_is_decided_by_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, eager=0.125, compiled=0.0625, cost=12.5)
    assert any(timed.run(5000))
    assert not any(timed.run(SEEN + 199))  # 199 steps save 12.4 seconds
    assert sum(timed.run(SEEN + 201)) == 201
    assert not any(timed.run(SEEN + 201, batch=3))  # of other batches nothing is known


def test_smaller_last_batches_are_neither_timed_nor_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, eager=100.0, compiled=1.0, cost=1.0)
    seen: list[int] = []
    monkeypatch.setattr(timed.model, "_call_impl", lambda inputs: seen.append(len(inputs)))
    compiler = StepCompiler(timed.model, CONFIG, device=CUDA, batch=4, steps=1000)
    with compiler:
        for _ in range(SEEN):
            compiler.run(lambda: setattr(timed, "clock", timed.clock + 100.0), images=4)
            compiler.run(lambda: None, images=3)
        assert timed.model._compiled_call_impl is not None
        timed.model(torch.zeros(3, 2))
        assert seen == [3]


@pytest.mark.parametrize("how", ["auto", "always"])
def test_a_network_that_cannot_be_compiled_is_trained_without(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, eager=10.0, compiled=1.0, cost=0.0)
    config, taken = replace(CONFIG, compile=how), []

    def step() -> int:
        if timed.model._compiled_call_impl is not None:
            raise TorchDynamoException("no C compiler\nand more")
        timed.clock += 10.0
        taken.append(1)
        return len(taken)

    with StepCompiler(timed.model, config, device=CUDA, batch=4, steps=60, say=timed.said.append) as compiler:
        assert [compiler.run(step, images=4) for _ in range(60)] == list(range(1, 61))
    (line,) = timed.said
    assert line.startswith("the network is trained without torch.compile, which failed: ")
    assert line.endswith("no C compiler")


def test_other_errors_of_a_compiled_step_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, eager=10.0, compiled=1.0, cost=0.0)
    with (
        StepCompiler(timed.model, replace(CONFIG, compile="always"), device=CUDA, batch=4, steps=60) as compiler,
        pytest.raises(ZeroDivisionError),
    ):
        compiler.run(lambda: 1 / 0, images=4)


@pytest.mark.slow
def test_without_a_compiler_a_run_is_trained_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/there/is/none"))
    torch._dynamo.reset()
    assert trained("always") == trained("never")
    assert "trained without torch.compile, which failed" in capsys.readouterr().out


def trained(how: str, frozen: int | str = 0) -> list[dict[str, float]]:
    model = network(drop_path=0.0).double()
    freeze(model, frozen)
    train, val = (images(count, kind=DoubleBatches) for count in (20, 12))
    methods = {} if frozen == "all" else sar(0.1)
    run = fit(model, train, replace(CONFIG, compile=how), val=val, regularizers=methods, seed=0)
    found = [untimed(epoch) for epoch in run]
    assert model._compiled_call_impl is None
    return found


@pytest.mark.parametrize("frozen", [0, 1, "all"])
def test_taps_and_steps_are_one_graph(frozen: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By dynamo alone, which decides what is one graph; the kernels are another matter."""
    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **given: plain(self, backend="eager", fullgraph=True, **given))  # fmt: skip
    graphs = torch._dynamo.utils.counters
    graphs.clear()
    compiled, eager = trained("always", frozen), trained("never", frozen)
    assert graphs["stats"]["unique_graphs"] == 1  # whole batches; the last one is not compiled
    assert not graphs["graph_break"]
    for one, other in zip(compiled, eager, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_compiled_run_is_the_plain_one_but_for_rounding(frozen: int) -> None:
    for one, other in zip(trained("always", frozen), trained("never", frozen), strict=True):
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("how", ["always", "auto"])
def test_compiled_steps_on_cuda_are_the_plain_ones_but_for_rounding(
    how: str, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "ASSUMED_SECONDS", 0.0)  # so that auto tries it
    config = replace(CONFIG, epochs=8, batch_size=3, accumulate=accumulate, ema_decay=0.9)
    found = {}
    for each in (how, "never"):
        model = network(drop_path=0.0).double().cuda()
        train = images(20, CUDA, kind=DoubleBatches)
        found[each] = [
            untimed(epoch) for epoch in fit(model, train, replace(config, compile=each), regularizers=sar(0.1))
        ]
    for one, other in zip(found[how], found["never"], strict=True):
        assert one == pytest.approx(other, rel=1e-6)
