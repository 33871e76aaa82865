"""Claims about the averaged weights: timm's average with its warm-up, lent to the network and given back exactly."""

import pytest
import torch
from support.small_networks import SWIN, network, pictures
from torch import Tensor, nn

from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.ema import WeightAverage, swapped_weights
from pipeline.train.objective import Objective


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def walk(model: nn.Module, step: int) -> None:
    torch.manual_seed(step)
    for value in model.parameters():
        value.data.add_(0.1 * torch.randn_like(value))
    for value in model.buffers():
        value.add_(1)


def test_average_is_that_of_a_slow_restatement() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    average, decay = WeightAverage(model, 0.7), 0.7
    slow = {name: value.double() for name, value in weights(model).items()}
    for step in range(1, 9):
        walk(model, step)
        average.update(model, step)
        keep = min(decay, 1 - step ** (-2 / 3))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                slow[name] = keep * slow[name] + (1 - keep) * value.double()
            else:
                slow[name] = value
    assert 1 - 8 ** (-2 / 3) > decay > 1 - 4 ** (-2 / 3)  # both the warm-up and the decay itself have been used
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value.double(), slow[name].double(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        lambda: network(last_block="no_skip"),
        lambda: network("swin_tiny_patch4_window7_224", SWIN, image_size=(24, 24)),
    ],
)
def test_network_has_the_average_inside_and_its_own_weights_afterwards(model: object) -> None:
    built = model()  # type: ignore[operator]
    average = WeightAverage(built, 0.9)
    mean = weights(average.model)
    walk_only = list(built.parameters())
    for value in walk_only:
        value.data.add_(0.1)
    own = weights(built)
    with pytest.raises(ZeroDivisionError):
        borrowed(average, built, mean, own)
    assert all(torch.equal(own[name], value) for name, value in built.state_dict().items())
    assert all(torch.equal(mean[name], value) for name, value in average.model.state_dict().items())


def borrowed(average: WeightAverage, built: nn.Module, mean: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    with swapped_weights(built, average.model):
        assert all(torch.equal(mean[name], value) for name, value in built.state_dict().items())
        assert any(not torch.equal(own[name], value) for name, value in built.state_dict().items())
        raise ZeroDivisionError


def test_taps_see_the_average_while_it_is_lent() -> None:
    model = network()
    average = WeightAverage(model, 0.9)
    images, labels = pictures(), torch.tensor([0, 1, 2, 0])
    with Objective(model, {"sar": SpatialEntropy(weight=1.0)}, planned_epochs=2) as objective:
        logits, monitors = objective.score(images, labels)
        for value in model.parameters():
            value.data.add_(0.1 * torch.randn_like(value))
        other, changed = objective.score(images, labels)
        with swapped_weights(model, average.model):
            again, same = objective.score(images, labels)
    assert torch.equal(again, logits)
    assert same["sar/value"] == monitors["sar/value"] != changed["sar/value"]
    assert not torch.equal(other, logits)
