"""Claims about the training loop: every run is decided by its seed, can be broken off and resumed anywhere, and is the
same training when its batches are run in pieces.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.double_precision import DoubleBatches
from support.run_comparison import same, untimed, weights
from torch import Tensor, nn

from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.regularizers.relative_localisation import RelativeLocalisation
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.checkpoint import load_state, load_weights, save_checkpoint
from pipeline.train.cpu.onednn_linear import use_onednn_linear
from pipeline.train.loop import Diverged, Epoch, choose_device, fit, predict, score, seed_everything
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer, make_schedule
from pipeline.train.step import take_step
from pipeline.train.train_config import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SCALE = Standardisation((0.4,), (0.3,))
RECIPE = TrainConfig(
    epochs=4,
    batch_size=8,
    lr=2e-3,
    min_lr=0.0,
    warmup_epochs=1,
    weight_decay=0.1,
    label_smoothing=0.0,
    clip_grad=None,
)


def pictures() -> Prepared:
    """Forty noisy pictures, bright on the left (class 0) or on the right (class 1)."""
    rng = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int64) % 2
    images = rng.integers(0, 120, size=(40, 12, 12, 1), dtype=np.uint8)
    images[labels == 0, :, :6] += 100
    images[labels == 1, :, 6:] += 100
    return Prepared(images, labels, None, {})


def batches(ids: range, scale: Standardisation = SCALE, kind: type[ImageBatches] = ImageBatches) -> ImageBatches:
    return kind(pictures(), list(ids), scale, CPU)


TRAIN, VAL = range(28), range(28, 40)


def network(seed: int = 0, *, drop_path: float = 0.3) -> nn.Module:
    torch.manual_seed(seed)
    tiny = ModelConfig(
        "vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}, "xavier", drop_path
    )
    return build_model(tiny, num_classes=2, image_size=(12, 12), channels=1)


def methods(weight: float = 0.5) -> dict[str, SpatialEntropy]:
    return {"spatial_entropy": SpatialEntropy(weight=weight, layers="all", threshold=0.0, connectivity=8)}


def epochs(model: nn.Module, config: TrainConfig = RECIPE, **changes: Any) -> Iterator[Epoch]:
    given = {"val": batches(VAL), "regularizers": methods(), "seed": 3} | changes
    return fit(model, batches(TRAIN), config, **given)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, float]], dict[str, Tensor], Path]:
    """Metrics by epoch of a run, its last weights, and a folder with a checkpoint after every epoch."""
    folder, model, metrics = tmp_path_factory.mktemp("checkpoints"), network(), []
    for epoch in epochs(model):
        metrics.append(untimed(epoch))
        save_checkpoint(folder / str(epoch.number), model, {}, state=epoch.state())
    return metrics, weights(model), folder


def test_every_epoch_is_yielded_with_its_number_and_these_metrics(unbroken: Any) -> None:
    watched = {"spatial_entropy/value", "spatial_entropy/empty_share"}
    always = {"train/loss", "train/cross_entropy", "train/accuracy", "train/lr", "val/loss", "val/accuracy"}
    always |= {f"val/{name}" for name in watched} | {"train/spatial_entropy/weight"}
    metrics, _, _ = unbroken
    assert len(metrics) == 4
    assert metrics[0].keys() == always  # in the first epoch the weight is 0
    for later in metrics[1:]:
        assert later.keys() == always | {f"train/{name}" for name in watched}
        assert all(math.isfinite(value) for value in later.values())


def test_metrics_are_of_the_epoch_that_they_come_with(unbroken: Any) -> None:
    metrics, _, _ = unbroken
    assert [m["train/spatial_entropy/weight"] for m in metrics] == pytest.approx([0.0, 0.5, 0.375, 0.125])
    assert metrics[0]["train/loss"] == metrics[0]["train/cross_entropy"]
    for m in metrics[1:]:
        # No map is empty here, so the mean over both layers is half of what they add to the loss.
        assert m["train/spatial_entropy/empty_share"] == 0.0
        added = m["train/spatial_entropy/weight"] * 2 * m["train/spatial_entropy/value"]
        assert m["train/loss"] == pytest.approx(m["train/cross_entropy"] + added)
        assert added > 1e-3
    # Four steps of warm-up, then a cosine over twelve: the rates of steps 3, 7, 11 and 15, counted from 0.
    cosine = [1e-3 * (1 + math.cos(math.pi * step / 12)) for step in (3, 7, 11)]
    assert [m["train/lr"] for m in metrics] == pytest.approx([2e-3 * 4 / 5, *cosine])


def test_seconds_of_an_epoch_are_told() -> None:
    first = next(epochs(network()))
    assert 0 < first.metrics["seconds"] < 60


def test_training_learns() -> None:
    longer = replace(RECIPE, epochs=12, lr=5e-3)
    *_, last = epochs(network(), longer, regularizers=None)
    assert last.metrics["val/accuracy"] == 1.0
    assert last.metrics["train/loss"] < 0.3


@pytest.mark.parametrize("done", [1, 2, 3])
def test_run_resumed_after_any_epoch_is_the_unbroken_run(done: int, unbroken: Any) -> None:
    metrics, last_weights, folder = unbroken
    model = network(seed=9)  # whatever it was, it gets the checkpoint's weights
    load_weights(folder / str(done), model)
    torch.manual_seed(12345)  # no stream needs to have been saved
    later = list(epochs(model, resume=load_state(folder / str(done))))
    assert [epoch.number for epoch in later] == list(range(done + 1, 5))
    assert [untimed(epoch) for epoch in later] == metrics[done:]
    assert same(weights(model), last_weights)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_run_with_a_method_that_learns_is_resumed_as_the_unbroken_run(form: str, tmp_path: Path) -> None:
    def learning() -> dict[str, RelativeLocalisation]:
        return {"relative_localisation": RelativeLocalisation(weight=0.5, form=form, pairs=8)}

    model, kept = network(), learning()
    metrics = []
    for epoch in epochs(model, regularizers=kept):
        metrics.append(untimed(epoch))
        save_checkpoint(tmp_path / str(epoch.number), model, {}, state=epoch.state())
    again, other = network(seed=9), learning()
    load_weights(tmp_path / "2", again)
    later = list(epochs(again, regularizers=other, resume=load_state(tmp_path / "2")))
    assert [untimed(epoch) for epoch in later] == metrics[2:]
    assert same(weights(again), weights(model))
    assert same(weights(other["relative_localisation"]), weights(kept["relative_localisation"]))


def test_what_a_method_trains_is_in_the_optimizer_with_weight_decay_as_usual() -> None:
    method = RelativeLocalisation(weight=0.5, pairs=8)
    model = network()
    run = epochs(model, regularizers={"relative_localisation": method})
    state = next(run).state()
    groups = state["optimizer"]["param_groups"]
    assert [(len(group["params"]), group["weight_decay"]) for group in groups[-2:]] == [(3, 0.0), (3, 0.1)]
    assert len({group["lr"] for group in groups}) == 1  # they follow the network's learning rate
    assert len(groups) == 4
    before = {name: value.clone() for name, value in method.state_dict().items()}
    next(run)
    assert all(not torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_weights_of_a_method_that_are_no_longer_finite_diverge_though_no_loss_shows_it() -> None:
    class Ruined(RelativeLocalisation):
        def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
            super().prepare(model, inputs_shape=inputs_shape)
            with torch.no_grad():
                self.get_parameter("predictor.4.bias").fill_(math.nan)

    # In the first epoch its weight is 0, and nothing is computed with it.
    with pytest.raises(Diverged, match="epoch 1"):
        next(epochs(network(), regularizers={"ruined": Ruined(weight=0.5)}, val=None))


def test_clipping_bounds_network_and_method_together() -> None:
    model, method = network(), RelativeLocalisation(weight=0.5, pairs=8, schedule="constant")
    next(epochs(model, replace(RECIPE, clip_grad=1e-3), regularizers={"relative_localisation": method}))
    parameters = [*model.parameters(), *method.parameters()]
    norms = torch.stack([weight.grad.norm() for weight in parameters if weight.grad is not None])
    assert norms.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_run_resumed_after_its_last_epoch_has_nothing_to_do(unbroken: Any) -> None:
    _, last_weights, folder = unbroken
    model = network()
    load_weights(folder / "4", model)
    assert list(epochs(model, resume=load_state(folder / "4"))) == []
    assert same(weights(model), last_weights)


def test_same_seed_gives_the_same_run_and_another_seed_another(unbroken: Any) -> None:
    metrics, last_weights, _ = unbroken
    again, other = network(), network()
    assert [untimed(epoch) for epoch in epochs(again)] == metrics
    assert same(weights(again), last_weights)
    assert [untimed(epoch) for epoch in epochs(other, seed=4)] != metrics


def test_scoring_does_not_change_the_run(unbroken: Any) -> None:
    _, last_weights, _ = unbroken
    model = network()
    for epoch in epochs(model, val=None):
        assert not any(name.startswith("val/") for name in epoch.metrics)
    assert same(weights(model), last_weights)


def test_method_of_weight_0_gives_the_plain_run_bit_for_bit(unbroken: Any) -> None:
    off, plain = network(), network()
    watched = [untimed(epoch) for epoch in epochs(off, regularizers=methods(weight=0.0))]
    bare = [untimed(epoch) for epoch in epochs(plain, regularizers=None)]
    assert same(weights(off), weights(plain))
    for with_method, without in zip(watched, bare, strict=True):
        assert {name: value for name, value in with_method.items() if "spatial_entropy" not in name} == without
        assert with_method["train/spatial_entropy/weight"] == 0.0
        assert "train/spatial_entropy/value" not in with_method
    assert not same(weights(plain), unbroken[1])  # while a weight above 0 does change it


def test_network_is_left_without_taps_when_the_run_is_over_or_broken_off() -> None:
    def hooks(model: nn.Module) -> int:
        return sum(len(module._forward_hooks) for module in model.modules())

    model = network()
    run = epochs(model)
    next(run)
    assert hooks(model) == 7
    run.close()  # type: ignore[attr-defined]
    assert hooks(model) == 0
    list(epochs(model, replace(RECIPE, epochs=1)))
    assert hooks(model) == 0


def test_clipping_bounds_the_gradient_of_every_step() -> None:
    norms = {}
    for limit in (None, 1e-3):
        model = network()
        next(epochs(model, replace(RECIPE, clip_grad=limit)))
        last = torch.stack([weight.grad.norm() for weight in model.parameters() if weight.grad is not None])
        norms[limit] = last.norm().item()
    assert norms[None] > 0.01
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)


def gradients(pieces: int, *, weight: float = 0.0, **recipe: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradient, and the monitors, of a step on a batch of seven, in float64 and without anything random."""
    model = network(drop_path=0.0).double().train()
    config = replace(RECIPE, accumulate=pieces, **recipe)
    inputs, labels = next(batches(TRAIN).in_order(7))
    with Objective(model, methods(weight), planned_epochs=4, label_smoothing=config.label_smoothing) as objective:
        monitors = take_step(
            model, objective, make_optimizer(model, config), inputs.double(), labels, epoch=1, config=config
        )
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}, monitors


@pytest.mark.parametrize("recipe", [{}, {"label_smoothing": 0.2}, {"clip_grad": 1e-2}])
@pytest.mark.parametrize("pieces", [2, 3, 7, 64])
def test_pieces_of_a_batch_have_the_gradient_of_the_batch(pieces: int, recipe: dict[str, float]) -> None:
    whole, monitors = gradients(1, **recipe)
    parts, also = gradients(pieces, **recipe)
    assert max(value.abs().max() for value in whole.values()) > 1e-4
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(also, monitors, atol=1e-6, rtol=1e-6)


def test_pieces_of_a_batch_have_its_regularised_gradient_while_no_map_is_empty() -> None:
    whole, monitors = gradients(1, weight=0.5)
    parts, also = gradients(3, weight=0.5)
    assert monitors["spatial_entropy/empty_share"] == 0.0
    assert any((whole[name] - value).abs().max() > 1e-4 for name, value in gradients(1)[0].items())
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(also, monitors, atol=1e-6, rtol=1e-6)


def sizes_run(model: nn.Module) -> list[int]:
    """How many images go through a network at a time, from now on."""
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_batch_is_cut_as_evenly_as_can_be_and_never_into_an_empty_piece() -> None:
    model = network()
    sizes = sizes_run(model)
    next(epochs(model, replace(RECIPE, batch_size=13, accumulate=3), val=None))
    assert sizes == [5, 4, 4, 5, 4, 4, 1, 1]  # 28 images: two batches of 13, and one of 2


def test_scoring_holds_no_more_images_than_its_share_either() -> None:
    model, wide = network().double(), batches(range(40), kind=DoubleBatches)
    sizes = sizes_run(model)
    with Objective(model, {}, planned_epochs=4) as objective:
        whole, right = score(model, objective, wide, replace(RECIPE, accumulate=1))
        parts, other = score(model, objective, wide, replace(RECIPE, accumulate=8))
        assert sizes == [40, 32, 8]
    assert parts == pytest.approx(whole, abs=1e-12)
    assert right.tolist() == other.tolist()
    assert right.double().mean().item() == pytest.approx(whole["accuracy"])


def test_run_in_pieces_is_the_run_in_whole_batches_but_for_rounding() -> None:
    train, val = (batches(ids, kind=DoubleBatches) for ids in (TRAIN, VAL))
    whole, parts = (
        [
            untimed(epoch)
            for epoch in fit(
                network(drop_path=0.0).double(),
                train,
                replace(RECIPE, accumulate=pieces),
                val=val,
                regularizers=methods(),
                seed=3,
            )
        ]
        for pieces in (1, 3)
    )
    for first, second in zip(whole, parts, strict=True):
        assert second == pytest.approx(first, rel=1e-8, abs=1e-8)
    assert [m["train/lr"] for m in parts] == [m["train/lr"] for m in whole]


@pytest.mark.parametrize("clip_grad", [None, 0.1])
def test_run_in_whole_batches_is_to_the_bit_the_plain_loop(clip_grad: float | None) -> None:
    config = replace(RECIPE, clip_grad=clip_grad)
    plain, tested = network(), network()
    optimizer = make_optimizer(plain, config)
    schedule = make_schedule(optimizer, config, 4)
    with Objective(plain, methods(), planned_epochs=4) as objective, use_onednn_linear(plain):
        for epoch in range(4):
            seed_everything(3, epoch)
            for step, (inputs, labels) in enumerate(batches(TRAIN).shuffled(8, seed=3, epoch=epoch)):
                schedule.step_update(epoch * 4 + step)
                optimizer.zero_grad()
                objective.step(inputs, labels, epoch).total.backward()  # type: ignore[no-untyped-call, unused-ignore]
                if clip_grad is not None:
                    nn.utils.clip_grad_norm_(plain.parameters(), clip_grad)
                optimizer.step()
    list(epochs(tested, config))
    assert same(weights(tested), weights(plain))


def test_rate_beyond_all_measure_diverges() -> None:
    with pytest.raises(Diverged, match="not finite in epoch 1") as diverged:
        list(epochs(network(), replace(RECIPE, lr=1e30, warmup_epochs=0)))
    assert diverged.value.epoch == 1


def test_inputs_that_are_not_finite_diverge() -> None:
    infinite = Standardisation((0.0,), (0.0,))
    with pytest.raises(Diverged) as diverged:
        list(fit(network(), batches(TRAIN, infinite), RECIPE))
    assert diverged.value.epoch == 1


def test_diverging_later_is_told_with_that_epoch() -> None:
    model = network()
    run = epochs(model)
    next(run)
    next(run)
    with torch.no_grad():
        model.get_parameter("head.bias").fill_(math.nan)
    with pytest.raises(Diverged) as diverged:
        next(run)
    assert diverged.value.epoch == 3


def test_weights_that_the_last_step_ruins_diverge() -> None:
    one_step = replace(RECIPE, epochs=1, batch_size=28, lr=1e37, warmup_epochs=0)
    model = network()
    with torch.no_grad():  # decayed by 1 - lr * 0.1, these leave what float32 can hold
        model.get_parameter("head.weight").fill_(1e4)
    with pytest.raises(Diverged):
        list(epochs(model, one_step))


def test_error_of_memory_leaves_a_run_as_it_was_raised() -> None:
    model, raised = network(), torch.OutOfMemoryError("CUDA out of memory.")

    def starve(*_: object) -> None:
        raise raised

    model.register_forward_pre_hook(starve)
    with pytest.raises(torch.OutOfMemoryError) as seen:
        next(epochs(model))
    assert seen.value is raised


def test_network_that_cannot_give_the_maps_is_refused_before_any_step() -> None:
    with pytest.raises(ValueError, match="has no blocks of patch tokens"):
        next(fit(nn.Linear(2, 2), batches(TRAIN), RECIPE, regularizers=methods()))


def test_probabilities_come_in_the_order_of_the_ids_whatever_the_batch_size() -> None:
    model = network().double().train()
    images = batches(range(39, 19, -1), kind=DoubleBatches)
    rows = predict(model, images, batch_size=7)
    assert rows.shape == (20, 2)
    assert rows.dtype == torch.float32
    last = 2**-23  # of float32, in which they come, the last bit
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(20), atol=2 * last, rtol=0)
    torch.testing.assert_close(rows, predict(model, images), atol=last, rtol=0)
    forwards = predict(model, batches(range(20, 40), kind=DoubleBatches))
    torch.testing.assert_close(rows.flip(0), forwards, atol=last, rtol=0)
    assert rows.std(dim=0).min() > 0


def test_streams_are_told_apart_by_seed_and_every_further_number() -> None:
    def draw(*numbers: int) -> float:
        seed_everything(*numbers)
        return torch.rand(()).item()

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1, 2), draw(1, 3), draw(2, 2), draw(2, 1), draw(1), draw(1, 2, 1)}) == 6


def test_device_that_is_asked_for_is_given_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == CPU


def test_probabilities_of_the_validation_images_are_those_of_the_network_after_the_epoch() -> None:
    model = network()
    for epoch in epochs(model):
        assert epoch.probabilities is not None
        assert epoch.correct is not None
        shares = epoch.probabilities()
        labels = np.concatenate([answers.numpy() for _, answers in batches(VAL).in_order(5)])
        assert shares.shape == (len(VAL), 2)
        np.testing.assert_allclose(shares, predict(model, batches(VAL)).numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(shares.argmax(1) == labels, epoch.correct())
