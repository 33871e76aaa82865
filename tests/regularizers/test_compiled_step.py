"""Claims about a training step with SAR under torch.compile: one graph, and the numbers of the step that is not compiled,
in float64.
"""

import pytest
import torch
from support.small_networks import network, pictures

from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.objective import Objective


@pytest.mark.parametrize(
    "fewest", [0, pytest.param(10**12, marks=pytest.mark.slow)], ids=["compiled entropy", "plain entropy"]
)
def test_step_with_sar_is_compiled_without_a_graph_break(fewest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.regularizers.spatial_entropy.FEWEST_PIXELS", fewest)
    model, images, labels = network().double().train(), pictures().double(), torch.tensor([0, 1, 2, 0])
    method = SpatialEntropy(weight=0.1, layers="all", threshold=0.2)
    with Objective(model, {"spatial_entropy": method}, planned_epochs=10) as objective:
        plain = objective.step(images, labels, 9)
        expected = torch.autograd.grad(plain.total, list(model.parameters()))
        torch._dynamo.reset()
        whole = torch.compile(objective.step, fullgraph=True, backend="aot_eager")(images, labels, 9)
        found = torch.autograd.grad(whole.total, list(model.parameters()))
    assert plain.monitors["spatial_entropy/value"] > 0
    for name, value in plain.monitors.items():
        torch.testing.assert_close(whole.monitors[name], value, rtol=1e-10, atol=1e-12)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
