"""Claims about the objective: what is added to the cross-entropy, when, and what is watched."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.build import build_model
from pipeline.models.settings import LayerSpec, ModelConfig
from pipeline.regularizers.base import Features, Needs, Penalty, Regularizer
from pipeline.regularizers.settings import SpatialEntropyConfig
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.objective import Objective


class MeanSquare(Regularizer):
    """The mean square of the similarity maps it asks for, or 2 if it asks for none; remembers what it was given."""

    def __init__(self, weight: float, layers: LayerSpec | None = "last") -> None:
        super().__init__(weight, Needs(similarity=layers))
        self.given: list[Features] = []

    def forward(self, features: Features) -> Penalty:
        self.given.append(features)
        maps = features.similarity
        loss = torch.tensor(2.0) if maps is None else maps.square().mean()
        return Penalty(loss, {"value": loss.detach()})


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    tiny = ModelConfig(
        "vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}, "xavier", 0.0
    )
    return build_model(tiny, num_classes=3, image_size=(12, 12), channels=1).eval()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 0])


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_loss_is_cross_entropy_plus_every_weighted_penalty(model: nn.Module, inputs: Tensor) -> None:
    methods = {"two": MeanSquare(3.0, layers=None), "square": MeanSquare(0.5)}
    with Objective(model, methods, planned_epochs=100) as objective:
        step = objective.step(inputs, LABELS, epoch=10)  # where the schedule is at its peak
    plain = F.cross_entropy(model(inputs), LABELS)
    square = step.monitors["square/value"]
    assert square > 0
    assert step.total.item() == pytest.approx(plain.item() + 3.0 * 2.0 + 0.5 * square.item())
    assert step.monitors.keys() == {"cross_entropy", "loss", "two/value", "square/value"}
    assert step.monitors["cross_entropy"].item() == pytest.approx(plain.item())
    assert step.monitors["loss"] == step.total.detach()
    assert torch.equal(step.logits, model(inputs))


def test_weights_follow_the_schedule_of_the_planned_epochs(model: nn.Module) -> None:
    methods = {"a": MeanSquare(0.1, layers=None), "b": MeanSquare(0.0, layers=None)}
    objective = Objective(model, methods, planned_epochs=100)
    assert objective.weights(0) == {"a": 0.0, "b": 0.0}
    assert objective.weights(9) == {"a": 0.1, "b": 0.0}
    assert objective.weights(55)["a"] == pytest.approx(0.05)
    with pytest.raises(ValueError, match="outside the 100 planned epochs"):
        objective.weights(100)


def test_method_of_weight_0_is_not_asked_in_training_and_is_watched_in_scoring(
    model: nn.Module, inputs: Tensor
) -> None:
    method = MeanSquare(0.0)
    with Objective(model, {"square": method}, planned_epochs=100) as objective:
        step = objective.step(inputs, LABELS, epoch=10)
        assert method.given == []
        assert step.monitors.keys() == {"cross_entropy", "loss"}
        assert torch.equal(step.total, F.cross_entropy(model(inputs), LABELS))
        _, monitors = objective.score(inputs, LABELS)
    assert len(method.given) == 1
    assert monitors.keys() == {"loss", "square/value"}


def test_gradient_is_the_sum_of_that_of_the_loss_and_the_weighted_one_of_the_penalty(
    model: nn.Module, inputs: Tensor
) -> None:
    qkv = model.get_parameter("blocks.1.attn.qkv.weight")

    def slope(weight: float) -> Tensor:
        with Objective(model, {"square": MeanSquare(weight)}, planned_epochs=100) as objective:
            return torch.autograd.grad(objective.step(inputs, LABELS, epoch=10).total, qkv)[0]

    plain = slope(0.0)
    torch.testing.assert_close(slope(4.0) - plain, 2 * (slope(2.0) - plain), atol=1e-5, rtol=1e-3)
    assert (slope(4.0) - plain).abs().max() > 1e-3


def test_scoring_keeps_no_graph_and_gives_plain_cross_entropy(model: nn.Module, inputs: Tensor) -> None:
    with Objective(model, {"square": MeanSquare(3.0)}, planned_epochs=100, label_smoothing=0.3) as objective:
        logits, monitors = objective.score(inputs, LABELS)
        step = objective.step(inputs, LABELS, epoch=0)
    assert not logits.requires_grad
    assert not any(value.requires_grad for value in monitors.values())
    assert monitors["loss"].item() == pytest.approx(F.cross_entropy(logits, LABELS).item())
    assert step.total.item() == pytest.approx(F.cross_entropy(logits, LABELS, label_smoothing=0.3).item())


def test_each_method_gets_the_maps_of_its_own_layers(model: nn.Module, inputs: Tensor) -> None:
    methods = {"last": MeanSquare(1.0, "last"), "all": MeanSquare(1.0, "all"), "none": MeanSquare(1.0, None)}
    with Objective(model, methods, planned_epochs=100) as objective:
        objective.step(inputs, LABELS, epoch=10)
    last, every = methods["last"].given[0].similarity, methods["all"].given[0].similarity
    assert last is not None
    assert every is not None
    assert last.shape == (4, 1, 2, 6, 6)
    assert every.shape == (4, 2, 2, 6, 6)
    assert torch.equal(every[:, 1:], last)
    assert methods["none"].given[0].similarity is None


def test_spatial_entropy_is_watched_by_value_and_share_of_empty_maps(model: nn.Module, inputs: Tensor) -> None:
    method = SpatialEntropy(SpatialEntropyConfig(0.1, "all", 0.0, 8))
    with Objective(model, {"spatial_entropy": method}, planned_epochs=100) as objective:
        step = objective.step(inputs, LABELS, epoch=10)
        _, monitors = objective.score(inputs, LABELS)
    watched = {"spatial_entropy/value", "spatial_entropy/empty_share"}
    assert step.monitors.keys() == watched | {"cross_entropy", "loss"}
    assert monitors.keys() == watched | {"loss"}
    assert 0 < monitors["spatial_entropy/value"] < 2.2
    assert monitors["spatial_entropy/empty_share"] == 0.0


def test_taps_leave_the_network_when_the_objective_closes(model: nn.Module) -> None:
    with Objective(model, {"a": MeanSquare(1.0), "b": MeanSquare(1.0, "all")}, planned_epochs=2):
        assert hooks(model) == 6
    assert hooks(model) == 0
    objective = Objective(model, {"a": MeanSquare(1.0)}, planned_epochs=2)
    objective.close()
    assert hooks(model) == 0


def test_network_that_cannot_give_what_a_method_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="has no blocks of patch tokens"):
        Objective(nn.Linear(2, 2), {"square": MeanSquare(1.0)}, planned_epochs=2)
    Objective(nn.Linear(2, 2), {"two": MeanSquare(1.0, layers=None)}, planned_epochs=2).close()


def test_refused_objective_leaves_no_tap_in_the_network(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="names block 7"):
        Objective(model, {"good": MeanSquare(1.0), "bad": MeanSquare(1.0, (7,))}, planned_epochs=2)
    assert hooks(model) == 0
