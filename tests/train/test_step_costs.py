"""What a step asks of the device: nothing that waits for it, and no more operations than it must.

Counts of operations stand in for times, which no test can rely on: an operation that a change adds to every step, or a
loop over weights or maps, shows in them on any machine.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tiny_runs import CONFIG, images, network, sar
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.train.cpu.onednn_linear import use_onednn_linear
from pipeline.train.loop import fit
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.step import take_step

pytestmark = pytest.mark.usefixtures("one_thread")

WAITING = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.is_nonzero", "aten.equal"}
"""Operations whose result the host needs before it can go on, so that on a GPU it waits for all that was asked."""

BY_BLOCK, AROUND = 103, 71
"""Operations of a step, forward and backward, and a tenth: 93 a block, 64 around them."""
BY_SAR = {0: 29, 10**12: 87}
"""Of SAR on two blocks, by the fewest pixels that are worked out in one call: 26 where these are, 79 where they are not.
"""


class Count(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(operation.overloadpacket)
        if name == "aten.index" and any(each is not None and each.dtype == torch.bool for each in args[1]):
            name = "aten.nonzero"  # which it asks for inside
        self.operations[name] += 1
        return operation(*args, **(kwargs or {}))

    @property
    def waiting(self) -> int:
        return sum(count for name, count in self.operations.items() if name in WAITING)


def counted_run(steps: int, **recipe: Any) -> Count:
    given = {"val": images(8 * steps), "regularizers": sar(0.1), "seed": 0}
    run = fit(network(), images(8 * steps), replace(CONFIG, **recipe), **given)
    with Count() as count:
        next(run)
    return count


@pytest.mark.parametrize(
    "recipe", [{}, {"ema_decay": 0.9}, {"accumulate": 2}, {"precision": "bfloat16"}, {"mixup": 1.0}]
)
def test_no_step_waits_for_the_device_and_an_epoch_does_a_few_times(recipe: dict[str, Any]) -> None:
    few, many = counted_run(2, **recipe), counted_run(6, **recipe)
    assert sum(many.operations.values()) > 2 * sum(few.operations.values())
    assert few.waiting == many.waiting <= 2


def test_count_sees_what_waits() -> None:
    with Count() as count:
        float(torch.ones(3).sum())
        torch.ones(3)[torch.tensor([True, False, True])]
    assert count.waiting == 2


def step_of(weight: float, depth: int = 2) -> Callable[[], Any]:
    model = network(depth).train()
    objective = Objective(model, sar(weight), planned_epochs=2)
    optimizer = make_optimizer(model, CONFIG)
    inputs, labels = next(images(8).in_order(8))

    def step() -> None:
        with use_onednn_linear(model):
            take_step(model, objective, optimizer, inputs, labels, epoch=1, config=CONFIG)

    step()
    return step


def operations(step: Callable[[], Any]) -> Counter[str]:
    with Count() as count:
        step()
    return count.operations


def test_step_dispatches_no_more_operations_than_it_has() -> None:
    two, four = (sum(operations(step_of(0.0, depth)).values()) for depth in (2, 4))
    assert (four - two) / 2 <= BY_BLOCK
    assert two - (four - two) <= AROUND


@pytest.mark.parametrize("fewest", list(BY_SAR), ids=["in one call", "in plain PyTorch"])
def test_regulariser_adds_few_operations_whatever_the_number_of_maps(
    fewest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.regularizers.spatial_entropy.FEWEST_PIXELS", fewest)
    monkeypatch.setattr("pipeline.regularizers.projected_rows.FEWEST_KEYS", fewest)
    on, off = (sum(operations(step_of(weight)).values()) for weight in (0.1, 0.0))
    assert on - off <= BY_SAR[fewest]


def test_optimizer_is_one_kernel_a_group_of_weights() -> None:
    found = operations(step_of(0.0))
    assert found["aten._fused_adamw_"] == 2  # decayed, and not
    assert not any(name.startswith(("aten.addcdiv", "aten._foreach_addcdiv")) for name in found)
