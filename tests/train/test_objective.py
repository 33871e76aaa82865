"""Claims about the objective: what is added to the cross-entropy, when, and what is watched.

In float64, but where float32 is the claim.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.build import build_model
from pipeline.models.model_config import LayerSpec, ModelConfig
from pipeline.regularizers.base import Features, Regularizer, RegularizerOutput, RequiredFeatures
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.objective import Objective


class MeanSquare(Regularizer):
    """The mean square of the similarity maps it asks for, or 2 if it asks for none; remembers what it was given."""

    def __init__(self, weight: float, layers: LayerSpec | None = "last", **more: Any) -> None:
        super().__init__(weight, RequiredFeatures(similarity=layers), **more)
        self.given: list[Features] = []

    def forward(self, features: Features) -> RegularizerOutput:
        self.given.append(features)
        maps = features.similarity
        loss = torch.tensor(2.0) if maps is None else maps.square().mean()
        return RegularizerOutput(loss, {"value": loss.detach()})


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    tiny = ModelConfig(
        "vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}, "xavier", 0.0
    )
    return build_model(tiny, num_classes=3, image_size=(12, 12), channels=1).eval().double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


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
    assert step.total.item() == pytest.approx(plain.item() + 3.0 * 2.0 + 0.5 * square.item(), rel=1e-12)
    assert step.monitors.keys() == {"cross_entropy", "loss", "two/value", "square/value"}
    assert step.monitors["cross_entropy"].item() == pytest.approx(plain.item())
    assert step.monitors["loss"] == step.total.detach()
    assert torch.equal(step.logits, model(inputs))


def test_shares_of_classes_are_taken_as_they_are_and_plain_labels_are_smoothed(
    model: nn.Module, inputs: Tensor
) -> None:
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]).double()
    with Objective(model, {}, planned_epochs=4, label_smoothing=0.3) as objective:
        mixed, plain = objective.step(inputs, shares, epoch=1), objective.step(inputs, LABELS, epoch=1)
    logs = model(inputs).log_softmax(-1)
    assert mixed.total.item() == pytest.approx(-(shares * logs).sum().item() / 4, rel=1e-12)
    smoothed = 0.7 * F.one_hot(LABELS, 3).double() + 0.1
    assert plain.total.item() == pytest.approx(-(smoothed * logs).sum().item() / 4, rel=1e-12)


def test_weights_follow_the_schedule_of_the_planned_epochs(model: nn.Module) -> None:
    methods = {"a": MeanSquare(0.1, layers=None), "b": MeanSquare(0.0, layers=None, watch=True)}
    objective = Objective(model, methods, planned_epochs=100)
    assert objective.weights(0) == {"a": 0.0, "b": 0.0}
    assert objective.weights(9) == {"a": 0.1, "b": 0.0}
    assert objective.weights(55)["a"] == pytest.approx(0.05)
    with pytest.raises(ValueError, match="outside the 100 planned epochs"):
        objective.weights(100)


def test_method_that_is_watched_at_weight_0_is_not_asked_in_training_but_in_scoring(
    model: nn.Module, inputs: Tensor
) -> None:
    method = MeanSquare(0.0, watch=True)
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
    torch.testing.assert_close(slope(4.0) - plain, 2 * (slope(2.0) - plain), atol=1e-12, rtol=1e-9)
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
    method = SpatialEntropy(weight=0.1, layers="all", threshold=0.0, connectivity=8)
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
        assert hooks(model) == 11
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


class Learner(Regularizer):
    """Has a weight of its own to train, and asks for whatever it is told to."""

    def __init__(self, weight: float = 1.0, needs: RequiredFeatures | None = None, **more: Any) -> None:
        super().__init__(weight, needs or RequiredFeatures(tokens=True, inputs=True), **more)
        self.given: list[Features] = []

    def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
        self.seen = inputs_shape
        self.scale = nn.Linear(16, 1).to(next(model.parameters()).dtype)

    def forward(self, features: Features) -> RegularizerOutput:
        self.given.append(features)
        loss = torch.zeros(()) if features.tokens is None else self.scale(features.tokens).square().mean()
        return RegularizerOutput(loss, {"value": loss.detach()})


def test_method_that_is_neither_weighted_nor_watched_costs_nothing(model: nn.Module, inputs: Tensor) -> None:
    off = MeanSquare(0.0)
    with Objective(model, {"off": off}, planned_epochs=4) as objective:
        assert hooks(model) == 0
        assert objective.weights(1) == {}
        assert objective.score(inputs, LABELS)[1].keys() == {"loss"}
        assert list(objective.trainable.parameters()) == []
    assert off.given == []


def test_method_gets_what_it_needs_and_nothing_else(model: nn.Module, inputs: Tensor) -> None:
    everything = RequiredFeatures(
        similarity="all", heads="last", tokens=True, inputs=True, with_cls=True, masks=True, blocks=(0,)
    )
    methods = {"all": Learner(needs=everything), "none": Learner(needs=RequiredFeatures())}
    with Objective(model, methods, planned_epochs=4) as objective:
        assert objective.needs_masks
        objective.step(inputs, LABELS, 1, inputs[:, 0])
    given = methods["all"].given[0]
    shapes = {name: tuple(value.shape) for name, value in vars(given).items()}
    assert shapes == {
        "similarity": (4, 2, 2, 6, 6),
        "heads": (4, 1, 2, 37, 8),
        "tokens": (4, 6, 6, 16),
        "inputs": (4, 1, 12, 12),
        "cls": (4, 2, 2),
        "masks": (4, 12, 12),
        "blocks": (4, 1, 6, 6, 16),
    }
    assert given.inputs is inputs
    assert methods["none"].given == [Features()]
    assert hooks(model) == 0


def test_prepare_is_told_the_shape_of_the_images(model: nn.Module) -> None:
    method = Learner()
    Objective(model, {"learner": method}, planned_epochs=2).close()
    assert method.seen == (1, 12, 12)
    small = {"embed_dims": [4, 8], "depths": [1, 1], "num_heads": [1, 2], "sr_ratios": [2, 1], "mlp_ratios": [2, 2]}
    other = build_model(ModelConfig("pvt_v2_b0", small, "xavier", 0.0), num_classes=3, image_size=(24, 16), channels=2)
    Objective(other, {"learner": method}, planned_epochs=2).close()
    assert method.seen == (2, 24, 16)
    plain = Learner(needs=RequiredFeatures())
    Objective(nn.Linear(2, 2), {"learner": plain}, planned_epochs=2).close()
    assert plain.seen == ()


def test_what_a_method_trains_is_drawn_from_a_stream_of_its_own(model: nn.Module) -> None:
    def drawn(seed: int, before: int, name: str = "learner") -> Tensor:
        torch.manual_seed(before)
        method = Learner()
        Objective(model, {name: method}, planned_epochs=2, seed=seed).close()
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(before)))
        return method.scale.weight.detach()

    first = drawn(0, before=1)
    assert torch.equal(drawn(0, before=2), first)
    assert not torch.equal(drawn(1, before=1), first)
    assert not torch.equal(drawn(0, before=1, name="other"), first)


def test_what_a_method_trains_is_trainable_and_gets_a_gradient(model: nn.Module, inputs: Tensor) -> None:
    method = Learner()
    with Objective(model, {"learner": method}, planned_epochs=2) as objective:
        assert list(objective.trainable.parameters()) == list(method.scale.parameters())
        objective.step(inputs, LABELS, epoch=1).total.backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert method.scale.weight.grad is not None
    assert method.scale.weight.grad.abs().max() > 0


def test_state_is_what_methods_have_learnt_and_can_be_gone_on_from(model: nn.Module) -> None:
    method = Learner()
    with Objective(model, {"learner": method, "plain": MeanSquare(1.0)}, planned_epochs=2) as objective:
        state = {name: {key: value.clone() for key, value in each.items()} for name, each in objective.state().items()}
        assert {name: list(each) for name, each in state.items()} == {"learner": ["scale.weight", "scale.bias"]}
    with Objective(model, {"learner": method}, planned_epochs=2, seed=9) as other:
        assert not torch.equal(method.scale.weight, state["learner"]["scale.weight"])
        other.load_state(state)
        assert torch.equal(method.scale.weight, state["learner"]["scale.weight"])


def test_methods_are_computed_in_float32_under_autocast(model: nn.Module, inputs: Tensor) -> None:
    seen: list[bool] = []
    model, inputs = model.float(), inputs.float()

    class Asking(Learner):
        def forward(self, features: Features) -> RegularizerOutput:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(features)

    method = Asking(needs=RequiredFeatures(similarity="all", heads="all", tokens=True, with_cls=True))
    with Objective(model, {"asking": method}, planned_epochs=4) as objective:
        with torch.autocast("cpu", torch.bfloat16):
            step = objective.step(inputs, LABELS, epoch=1)
            objective.score(inputs, LABELS)
        assert step.logits.dtype == torch.bfloat16
    assert seen == [False, False]
    for features in method.given:
        collected = [value for value in vars(features).values() if value is not None]
        assert len(collected) == 4
        assert {value.dtype for value in collected} == {torch.float32}
    assert step.monitors["asking/value"].dtype == torch.float32


def test_each_method_has_its_own_schedule(model: nn.Module) -> None:
    methods = {name: MeanSquare(1.0, None, schedule=name) for name in ("warmup_cosine", "warmup_linear", "constant")}
    objective = Objective(model, methods, planned_epochs=4)
    assert objective.weights(0) == {"warmup_cosine": 0.0, "warmup_linear": 0.0, "constant": 1.0}
    assert objective.weights(3) == pytest.approx({"warmup_cosine": 0.25, "warmup_linear": 1 / 3, "constant": 1.0})
    with pytest.raises(ValueError, match="unknown schedule 'cosine'"):
        MeanSquare(1.0, None, schedule="cosine")


def test_refusal_of_a_method_says_whose_it_is(model: nn.Module) -> None:
    class Refusing(MeanSquare):
        def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
            raise ValueError("not with this network")

    with pytest.raises(ValueError, match=r"^regularizer\.mine: not with this network"):
        Objective(model, {"good": MeanSquare(1.0), "mine": Refusing(1.0)}, planned_epochs=2)
    assert hooks(model) == 0
