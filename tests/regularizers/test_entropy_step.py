"""A training step with SAR on a CPU: by kernels it is the one by plain operations."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.double_precision import DoubleBatches
from support.tiny_runs import CONFIG, images, network
from torch import Tensor, nn

from pipeline.data.batches.batches import ImageBatches
from pipeline.regularizers.kernels import entropy_numba
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.step import take_step


@pytest.fixture(autouse=True)
def however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.regularizers.projected_rows.FEWEST_KEYS", 0)
    monkeypatch.setattr("pipeline.regularizers.spatial_entropy.FEWEST_PIXELS", 0)


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("query", ["cls", "mean"])
@pytest.mark.parametrize("way", ["whole", "in pieces", "recomputed", "bfloat16"])
def test_step_by_kernels_is_the_one_by_plain_operations(
    layers: str, query: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        CONFIG,
        accumulate=2 if way == "in pieces" else 1,
        precision="bfloat16" if way == "bfloat16" else "float32",
    )
    half = way == "bfloat16"  # which is of float32 networks; all else is the same but for rounding, so in float64
    inputs, labels = next(images(8, kind=ImageBatches if half else DoubleBatches).in_order(8))
    read: list[tuple[int, ...]] = []

    def step(by_kernels: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        with monkeypatch.context() as patch:
            own = entropy_numba.read_rows

            def watched(projected: Any, spec: Any) -> Any:
                read.append(projected.shape)
                return own(projected, spec)

            patch.setattr(entropy_numba, "read_rows", watched)
            if not by_kernels:
                patch.setattr("pipeline.regularizers.projected_rows.FEWEST_KEYS", 10**12)
            torch.manual_seed(0)
            model = network().to(inputs.dtype).train()
            model.set_grad_checkpointing(way == "recomputed")
            sar = {"spatial_entropy": SpatialEntropy(weight=0.5, layers=layers, query=query, schedule="constant")}
            with Objective(model, sar, planned_epochs=2) as objective:
                optimizer = make_optimizer(model, config)
                monitors = take_step(model, objective, optimizer, inputs, labels, epoch=1, config=config)
            return monitors, [each.grad for each in model.parameters() if each.grad is not None]

    (one, one_gradients), (other, other_gradients) = step(True), step(False)
    # Half precision is left to torch.
    assert len(read) == (0 if half else (2 if layers == "all" else 1) * config.accumulate)
    assert list(one) == list(other)
    # In half precision both ways are one, and give the same bits.
    within = 0.0 if half else 1e-10
    torch.testing.assert_close(one, other, rtol=within, atol=within)
    for found, expected in zip(one_gradients, other_gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=within, atol=within)


def test_network_one_block_of_which_norms_its_queries_keeps_its_maps() -> None:
    model: Any = network().train()
    model.blocks[0].attn.q_norm = nn.LayerNorm(8)
    method = SpatialEntropy(weight=0.1, layers="all", schedule="constant")
    inputs, labels = next(images(8).in_order(8))
    with Objective(model, {"spatial_entropy": method}, planned_epochs=2) as objective:
        loss = objective.step(inputs, labels, 1)
    assert float(loss.monitors["spatial_entropy/value"]) > 0
