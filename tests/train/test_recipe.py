"""Claims about the recipe's options together: a run with all of them on can be broken off and resumed anywhere, and each
of them leaves what the others, and the regularisers, compute as it should be.
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
from support.small_networks import PVT, SWIN, network
from torch import Tensor, nn

from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import UNDECIDED, Prepared
from pipeline.models.model_config import SpatialPriorConfig
from pipeline.models.tap import SimilarityTap
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.guide_network import GuideNetwork
from pipeline.regularizers.guided_transfer import GuidedTransfer
from pipeline.regularizers.head_disagreement import HeadDisagreement
from pipeline.regularizers.locality_guidance import LocalityGuidance
from pipeline.regularizers.mask_supervision import MaskSupervision
from pipeline.regularizers.relative_localisation import RelativeLocalisation
from pipeline.regularizers.spatial_entropy import SpatialEntropy, spatial_entropy
from pipeline.regularizers.total_variation import TotalVariation
from pipeline.train.checkpoint import load_state, load_weights, save_checkpoint
from pipeline.train.loader import TrainLoader, object_shares
from pipeline.train.loop import Diverged, Epoch, fit, score, seed_everything
from pipeline.train.memory import checkpointed
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.step import take_step
from pipeline.train.train_config import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = TrainConfig(4, 9, 2e-3, 1e-5, 1, 0.1, 0.1, None)
EVERYTHING = replace(
    PLAIN,
    clip_grad=1.0,
    accumulate=2,
    warmup_lr=1e-6,
    mixup=0.8,
    cutmix=1.0,
    mixup_prob=0.9,
    augment="deit",
    erasing=0.25,
    ema_decay=0.9,
    precision="bfloat16",
    grad_checkpointing=True,
    class_weights={"0": 4.0},
    sampling="balanced",
)


def guided(dtype: torch.dtype = torch.float32) -> GuidedTransfer:
    return GuidedTransfer(
        weight=0.5, source="another", with_cls=True, load_source=lambda _: network(noise=0.3).to(dtype)
    )


def guide() -> GuideNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return GuideNetwork(8, num_classes=3, channels=1)


METHODS = {
    "spatial_entropy": lambda: SpatialEntropy(weight=0.5, layers="all"),
    "total_variation": lambda: TotalVariation(weight=0.5, layers="all"),
    "head_disagreement": lambda: HeadDisagreement(weight=0.5, layers="all"),
    "relative_localisation": lambda: RelativeLocalisation(weight=0.5, pairs=8),
    "guided_transfer": guided,
    "mask_supervision": lambda: MaskSupervision(weight=0.5, layers="all"),
    "locality_guidance": lambda: LocalityGuidance(weight=0.5, guide=guide()),
    "mask_supervision of the mean head": lambda: MaskSupervision(weight=0.5, layers="all", heads="mean"),
}


def batches(ids: range, side: int = 12, device: str = "cpu", kind: type[ImageBatches] = ImageBatches) -> ImageBatches:
    """Of forty noisy pictures whose class says which third is bright, and their masks too, but for every fifth."""
    rng = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int64) % 3
    images = rng.integers(0, 120, size=(40, side, side, 1), dtype=np.uint8)
    masks = np.zeros((40, side, side), dtype=np.uint8)
    for row, label in enumerate(labels):
        images[row, :, side // 3 * label : side // 3 * (label + 1)] += 100
        masks[row, :, side // 3 * label : side // 3 * (label + 1)] = 1
    masks[::5] = UNDECIDED
    prepared = Prepared(images, labels, masks, {"classes": ["0", "1", "2"]})
    return kind(prepared, list(ids), Standardisation((0.4,), (0.3,)), torch.device(device))


TRAIN, VAL = range(28), range(28, 40)  # three batches of nine and one of a single image


def methods() -> dict[str, Regularizer]:
    together = ("spatial_entropy", "relative_localisation", "mask_supervision", "locality_guidance")
    return {name: METHODS[name]() for name in together}


def epochs(model: nn.Module, config: TrainConfig, **changes: Any) -> Iterator[Epoch]:
    given = {"val": batches(VAL), "regularizers": methods(), "seed": 3} | changes
    return fit(model, batches(TRAIN), config, **given)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], dict[str, Tensor], dict[str, Tensor], Path]:
    """Metrics by epoch of a run with everything on, its last weights and average, and a checkpoint of every epoch."""
    folder, model, metrics = tmp_path_factory.mktemp("checkpoints"), network(drop_path=0.3), []
    for epoch in epochs(model, EVERYTHING):
        metrics.append(untimed(epoch))
        save_checkpoint(folder / str(epoch.number), epoch.model, {}, state=epoch.state())
    return metrics, weights(model), weights(epoch.model), folder


@pytest.mark.parametrize("done", [1, 2, 3])
def test_run_with_everything_on_is_resumed_as_the_unbroken_run(done: int, unbroken: Any) -> None:
    metrics, last, average, folder = unbroken
    model = network(drop_path=0.3, noise=0.5)
    load_weights(folder / str(done), model)
    torch.manual_seed(12345)
    np.random.seed(12345)
    later = list(epochs(model, EVERYTHING, resume=load_state(folder / str(done))))
    assert [untimed(epoch) for epoch in later] == metrics[done:]
    assert same(weights(model), last)
    assert same(weights(later[-1].model), average)


def test_every_option_changes_the_run(unbroken: Any) -> None:
    metrics, _, _, _ = unbroken
    assert all(math.isfinite(value) for epoch in metrics for value in epoch.values())
    off = {
        "clip_grad": None,
        "accumulate": 1,
        "warmup_lr": None,
        "mixup": 0.0,
        "cutmix": 0.0,
        "mixup_prob": 0.3,
        "augment": "light",
        "erasing": 0.0,
        "ema_decay": 0.0,
        "precision": "float32",
        "class_weights": None,
        "sampling": "shuffle",
    }
    two = [replace(EVERYTHING, epochs=2)] + [replace(EVERYTHING, epochs=2, **{name: value}) for name, value in off.items()]  # fmt: skip
    runs = [[untimed(epoch) for epoch in epochs(network(drop_path=0.3), config)] for config in two]
    assert all(run != runs[0] for run in runs[1:])


def test_checkpoint_keeps_the_average_and_its_state_the_weights_on_the_way(unbroken: Any) -> None:
    _, last, average, folder = unbroken
    kept = network(noise=0.5)
    load_weights(folder / "4", kept)
    assert same(weights(kept), average)
    assert not same(average, last)
    assert same(load_state(folder / "4")["model"], last)
    plain = next(epochs(network(), PLAIN))
    assert plain.state().keys() == {"epoch", "optimizer", "regularizers"}


def test_average_is_what_is_scored_and_training_goes_on_without_it() -> None:
    averaged, plain = network(), network()
    config = replace(PLAIN, ema_decay=0.8)
    for epoch, other in zip(epochs(averaged, config), epochs(plain, PLAIN), strict=True):
        assert same(weights(averaged), weights(plain))
        assert {k: v for k, v in untimed(epoch).items() if "val/" not in k} == {k: v for k, v in untimed(other).items() if "val/" not in k}  # fmt: skip
        assert other.model is plain
        with Objective(epoch.model, {}, planned_epochs=4) as objective:
            again = score(epoch.model, objective, batches(VAL), config)[0]
        assert epoch.metrics["val/loss"] == again["loss"] != other.metrics["val/loss"]


def test_average_over_a_run_is_that_of_a_slow_restatement() -> None:
    config = replace(PLAIN, epochs=2, ema_decay=0.5)
    slow, taken = {}, []
    model = network().double()
    run = fit(model, batches(TRAIN, kind=DoubleBatches), config, seed=3)
    # The weights are looked at before every forward pass, and at the end.
    model.register_forward_pre_hook(lambda *_: taken.append(weights(model)))
    epoch = list(run)[-1]
    taken.append(weights(model))
    assert len(taken) == 9
    for step, now in enumerate(taken[1:], start=1):
        keep = min(0.5, 1 - step ** (-2 / 3))
        slow = {k: keep * slow.get(k, v) + (1 - keep) * v for k, v in now.items()}
    for name, value in epoch.model.state_dict().items():
        torch.testing.assert_close(value, slow[name], atol=1e-12, rtol=1e-12)


def test_divergence_is_seen_in_the_weights_on_the_way() -> None:
    model = network()
    run = epochs(model, replace(EVERYTHING, accumulate=1))
    next(run)
    with torch.no_grad():
        model.get_parameter("head.bias").fill_(math.nan)
    with pytest.raises(Diverged) as diverged:
        next(run)
    assert diverged.value.epoch == 2


@pytest.mark.gpu
def test_everything_runs_on_a_gpu_on_the_images_that_a_cpu_would_have_made(tmp_path: Path) -> None:
    for config in (EVERYTHING, replace(EVERYTHING, augment="light")):
        model = network(drop_path=0.3).cuda()
        here, there = (
            list(TrainLoader(batches(TRAIN, device=device), config, model=model, seed=3).epoch(1))
            for device in ("cpu", "cuda")
        )
        for (inputs, shares), (other, others) in zip(here, there, strict=True):
            torch.testing.assert_close((other.cpu(), others.cpu()), (inputs, shares), atol=1e-5, rtol=1e-5)
        given = {"val": batches(VAL, device="cuda"), "regularizers": methods(), "seed": 3}
        for epoch in fit(model, batches(TRAIN, device="cuda"), config, **given):
            assert all(math.isfinite(value) for value in epoch.metrics.values())
            save_checkpoint(tmp_path / str(epoch.number), epoch.model, {}, state=epoch.state())
        load_weights(tmp_path / "2", model)
        given["regularizers"] = methods()
        later = list(fit(model, batches(TRAIN, device="cuda"), config, resume=load_state(tmp_path / "2"), **given))
        assert [epoch.number for epoch in later] == [3, 4]


# Mixed images.


def mixed_step(accumulate: int, **recipe: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """A regularised step on the first mixed batch, in float64: gradients, monitors, inputs and shares."""
    model = network().double().train()
    config = replace(PLAIN, mixup=0.8, cutmix=1.0, accumulate=accumulate, **recipe)
    inputs, shares = next(TrainLoader(batches(TRAIN), config, model=model, seed=0).epoch(1))
    inputs, shares = inputs.double(), shares.double()
    with Objective(model, {"sar": METHODS["spatial_entropy"]()}, planned_epochs=4, label_smoothing=0.1) as objective:
        monitors = take_step(model, objective, make_optimizer(model, config), inputs, shares, epoch=1, config=config)
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return gradients, monitors, inputs, shares


def test_loss_of_mixed_images_is_the_cross_entropy_with_their_shares_and_sar_is_of_the_mixed_images() -> None:
    _, monitors, inputs, shares = mixed_step(1)
    model = network().double().train()
    with SimilarityTap(model, "all") as tap:
        logits = model(inputs)
        entropy = spatial_entropy(tap.maps(), threshold=0.0)
    expected = -(shares * logits.log_softmax(-1)).sum(-1).mean()
    assert shares.min() >= 0.1 / 3 - 1e-6  # smoothed once
    assert monitors["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert monitors["sar/value"].item() == pytest.approx(entropy.mean().item(), rel=1e-6)
    right = (logits.argmax(-1) == shares.argmax(-1)).double().mean()
    assert monitors["accuracy"].item() == pytest.approx(right.item())


def test_batch_is_mixed_as_a_whole_and_then_cut_into_pieces() -> None:
    whole, monitors, inputs, shares = mixed_step(1)
    parts, also, same_inputs, same_shares = mixed_step(4)
    assert torch.equal(inputs, same_inputs)
    assert torch.equal(shares, same_shares)
    assert monitors["sar/empty_share"] == 0.0
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(also, monitors, atol=1e-6, rtol=1e-6)


# Half precision.


def test_spatial_entropy_under_autocast_is_the_formula_in_float32_on_the_same_logits() -> None:
    model = network()
    inputs, labels = next(batches(TRAIN).in_order(9))
    with Objective(model, {"sar": METHODS["spatial_entropy"]()}, planned_epochs=4) as objective:
        with SimilarityTap(model, "all") as tap, torch.autocast("cpu", torch.bfloat16):
            step = objective.step(inputs, labels, epoch=1)
            maps = tap.maps()
        assert maps.dtype == torch.float32
        assert step.logits.dtype == torch.bfloat16
        found = step.monitors["sar/value"]
        step.total.backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert found.dtype == torch.float32
    # Each layer's loss is the mean over its images and heads, and layers add up in it. The entropies are the same bits;
    # summed in float32 in another order, each sum rounds by no more than a last bit.
    entropies = spatial_entropy(maps, threshold=0.0)
    assert found.item() == pytest.approx(entropies.double().mean().item(), rel=entropies.numel() * 2**-24)
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in gradients)
    assert model.blocks[-1].attn.qkv.weight.grad.abs().max() > 0


def test_half_precision_is_of_training_alone_and_near_the_full_one() -> None:
    model, seen = network(), []
    model.head.register_forward_hook(lambda module, _, out: seen.append((module.training, out.dtype)))
    half = [untimed(epoch) for epoch in epochs(model, replace(PLAIN, precision="bfloat16"))]
    full = [untimed(epoch) for epoch in epochs(network(), PLAIN)]
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    for one, other in zip(half, full, strict=True):
        assert one["train/cross_entropy"] == pytest.approx(other["train/cross_entropy"], abs=0.05)
    assert half != full


# Gradient checkpointing.


def checkpointed_step(enabled: bool, build: Any, method: Any, side: int, **recipe: Any) -> tuple[float, dict[str, Tensor]]:  # fmt: skip
    config = replace(PLAIN, **recipe)
    half = config.precision == "bfloat16"
    model = (build() if half else build().double()).train()
    images = batches(TRAIN, side, kind=ImageBatches if half else DoubleBatches)
    inputs, labels = next(images.in_order(9))
    masks = object_shares(next(images.masks_in_order(9)))
    regularizers = {"method": guided(inputs.dtype) if method is guided else method()} if method else {}
    with Objective(model, regularizers, planned_epochs=4) as objective, checkpointed(model, enabled):
        seed_everything(5)
        optimizer = make_optimizer(model, config)
        monitors = take_step(model, objective, optimizer, inputs, labels, masks, epoch=1, config=config)
        after = torch.rand(3)
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return monitors["loss"].item(), gradients | {"stream": after}


NETWORKS = {
    "plain": (lambda: network(drop_path=0.5), 12),
    "no skip": (lambda: network(drop_path=0.5, last_block="no_skip"), 12),
    "prior": (lambda: network(drop_path=0.5, spatial_prior=SpatialPriorConfig(2, None, True)), 12),
    "swin": (lambda: network("swin_tiny_patch4_window7_224", SWIN, image_size=(24, 24), drop_path=0.5), 24),
    "pvt": (lambda: network("pvt_v2_b0", PVT, image_size=(40, 40), drop_path=0.5), 40),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", [None, *METHODS])
def test_gradients_with_checkpointing_are_those_without(method: str | None, precision: str) -> None:
    given = (NETWORKS["plain"][0], METHODS[method] if method else None, 12)
    loss, gradients = checkpointed_step(False, *given, precision=precision)
    again, same_gradients = checkpointed_step(True, *given, precision=precision)
    # In half precision too the operations are the same, and so are their bits; what leads back adds up in float32.
    within = 1e-6 if precision == "bfloat16" else 1e-12
    assert again == pytest.approx(loss, rel=within)
    torch.testing.assert_close(same_gradients, gradients, atol=within, rtol=10 * within)
    assert len(gradients) > 20


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "plain"])
def test_gradients_with_checkpointing_are_those_without_in_every_kind_of_network(name: str) -> None:
    build, side = NETWORKS[name]
    query = "mean" if name in ("swin", "pvt") else "cls"
    given = (build, lambda: SpatialEntropy(weight=0.5, layers="last", query=query), side)
    loss, gradients = checkpointed_step(False, *given)
    again, same_gradients = checkpointed_step(True, *given)
    assert again == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(same_gradients, gradients, atol=1e-12, rtol=1e-11)


def test_checkpointing_runs_blocks_again_and_is_off_when_training_is_over() -> None:
    counts = {}
    for enabled in (False, True):
        model, calls = network(), []
        model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))  # noqa: B023
        list(epochs(model, replace(PLAIN, epochs=1, grad_checkpointing=enabled), val=None))
        counts[enabled] = len(calls)
        assert not model.grad_checkpointing
    assert (counts[False], counts[True]) == (4, 8)


def test_network_that_cannot_compute_again_is_refused_before_any_step() -> None:
    with pytest.raises(ValueError, match=r"^train\.grad_checkpointing: Linear"):
        next(fit(nn.Linear(2, 2), batches(TRAIN), replace(PLAIN, grad_checkpointing=True)))
