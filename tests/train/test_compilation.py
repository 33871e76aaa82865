"""A compiled run is the plain one but for rounding, which float64 keeps far below any difference; what is compiled, and
when.
"""

from dataclasses import replace

import pytest
import torch
from support.double_precision import DoubleBatches
from support.run_comparison import untimed
from support.tiny_runs import CONFIG, CPU, images, network, sar

from pipeline.models.freeze import freeze
from pipeline.train.compilation import AUTO_STEPS, is_worth_compiling
from pipeline.train.loop import fit

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("how", "device", "steps", "again", "expected"),
    [
        ("auto", CPU, 10 * AUTO_STEPS, False, False),
        ("auto", CUDA, AUTO_STEPS - 1, False, False),
        ("auto", CUDA, AUTO_STEPS, False, True),
        ("auto", CUDA, AUTO_STEPS, True, False),
        ("never", CUDA, AUTO_STEPS, False, False),
        ("always", CPU, 1, False, True),
        ("always", CPU, 1, True, False),
    ],
)
def test_what_is_compiled(how: str, device: torch.device, steps: int, again: bool, expected: bool) -> None:
    assert is_worth_compiling(replace(CONFIG, compile=how, grad_checkpointing=again), device, steps) is expected


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
    assert graphs["stats"]["unique_graphs"] == 2  # whole batches, and the last one
    assert not graphs["graph_break"]
    for one, other in zip(compiled, eager, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_compiled_run_is_the_plain_one_but_for_rounding(frozen: int) -> None:
    for one, other in zip(trained("always", frozen), trained("never", frozen), strict=True):
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.gpu
def test_compiled_step_runs_on_cuda() -> None:
    model = network(drop_path=0.0).cuda()
    run = fit(model, images(20, CUDA), replace(CONFIG, compile="always", precision="bfloat16"), regularizers=sar(0.1))
    assert [epoch.number for epoch in run] == [1, 2]
