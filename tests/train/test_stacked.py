"""Claims about stacks: each member's run is the run of that member alone, in its results and in its checkpoints."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.double_precision import DoubleBatches
from support.run_comparison import same, untimed, weights
from support.small_networks import PVT, SWIN
from support.small_networks import network as small
from torch import nn

from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared
from pipeline.models.build import build_model
from pipeline.models.freeze import freeze
from pipeline.models.model_config import ModelConfig, SpatialPriorConfig
from pipeline.models.stacked_network import CannotStack, MemberStreams, StackedLinear, stack_networks
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.guide_network import GuideNetwork
from pipeline.regularizers.guided_transfer import GuidedTransfer
from pipeline.regularizers.head_disagreement import HeadDisagreement
from pipeline.regularizers.locality_guidance import LocalityGuidance
from pipeline.regularizers.mask_supervision import MaskSupervision
from pipeline.regularizers.relative_localisation import RelativeLocalisation
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.regularizers.total_variation import TotalVariation
from pipeline.train.checkpoint import load_state, load_weights, save_checkpoint
from pipeline.train.cpu.onednn_linear import use_onednn_linear
from pipeline.train.loop import Diverged, Epoch, fit
from pipeline.train.sidecar import TrainState
from pipeline.train.stacked.stacked_loop import fit_stacked
from pipeline.train.train_config import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SEEDS = (3, 4, 5)
RECIPE = TrainConfig(
    epochs=2,
    batch_size=8,
    lr=2e-3,
    min_lr=0.0,
    warmup_epochs=1,
    weight_decay=0.1,
    label_smoothing=0.1,
    clip_grad=None,
    augment="light",
)
FULL = replace(
    RECIPE,
    clip_grad=0.5,
    accumulate=2,
    mixup=0.8,
    cutmix=1.0,
    erasing=0.5,
    ema_decay=0.9,
    layer_decay=0.8,
    classifier_lr_scale=2.0,
    class_weights={"left": 1.0, "right": 2.0},
    sampling="balanced",
)
TINY: Mapping[str, Any] = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}

Methods = Callable[[], dict[str, Regularizer]]


def pictures() -> Prepared:
    """Thirty noisy pictures, bright on the left (class 0) or on the right (class 1), with masks of that half."""
    rng = np.random.default_rng(0)
    labels = np.arange(30, dtype=np.int64) % 2
    images = rng.integers(0, 120, size=(30, 12, 12, 1), dtype=np.uint8)
    masks = np.zeros((30, 12, 12), dtype=np.uint8)
    for label, half in ((0, slice(0, 6)), (1, slice(6, 12))):
        images[labels == label, :, half] += 100
        masks[labels == label, :, half] = 1
    return Prepared(images, labels, masks, {"classes": ["left", "right"]})


def batches(ids: range, kind: type[ImageBatches] = DoubleBatches, device: torch.device = CPU) -> ImageBatches:
    return kind(pictures(), list(ids), Standardisation((0.4,), (0.3,)), device)


TRAIN, VAL = range(19), range(19, 30)


def network(seed: int, *, name: str = "vit_tiny_patch16_224", **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    config = ModelConfig(name, {**TINY, **changes.pop("kwargs", {})}, "xavier", **({"drop_path": 0.3} | changes))
    built: nn.Module = build_model(config, num_classes=2, image_size=(12, 12), channels=1)
    return built.double()


def networks(members: int = 3, **changes: Any) -> list[nn.Module]:
    return [network(seed, **changes) for seed in SEEDS[:members]]


def entropy(weight: float = 0.5) -> dict[str, Regularizer]:
    return {"spatial_entropy": SpatialEntropy(weight=weight, layers="all", schedule="constant")}


def no_methods() -> dict[str, Regularizer]:
    return {}


def together(
    models: list[nn.Module],
    config: TrainConfig = RECIPE,
    methods: Methods = entropy,
    *,
    epochs: int = 2,
    **given: Any,
) -> list[dict[int, Epoch | Diverged]]:
    """The epochs of a stack, of which the first `epochs` are trained."""
    found = []
    defaults = {"seeds": SEEDS[: len(models)], "val": batches(VAL), "regularizers": [methods() for _ in models]}
    for ended in fit_stacked(models, batches(TRAIN), config, **(defaults | given)):
        found.append(ended)
        if len(found) == epochs:
            break
    return found


def alone(
    model: nn.Module, config: TrainConfig = RECIPE, methods: Methods = entropy, *, seed: int, **given: Any
) -> list[Epoch]:
    given = {"val": batches(VAL), "seed": seed, "regularizers": methods()} | given
    return list(fit(model, batches(TRAIN), config, **given))


def agree(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(torch.as_tensor(found[name]), torch.as_tensor(value), rtol=0, atol=1e-10, msg=name)


def check_members(config: TrainConfig, methods: Methods, *, members: int = 2, **changes: Any) -> None:
    """Trains some members together, and each alone, and compares their epochs and weights."""
    prepare = changes.pop("prepare", lambda model: None)
    stacked, single = networks(members, **changes), networks(members, **changes)
    for model in (*stacked, *single):
        prepare(model)
    ended = together(stacked, config, methods)
    for index, (model, seed) in enumerate(zip(single, SEEDS, strict=False)):
        check_epochs([epochs[index] for epochs in ended], alone(model, config, methods, seed=seed))
        agree(weights(stacked[index]), weights(model))


def check_epochs(found: Sequence[Epoch | Diverged], expected: Sequence[Epoch]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert isinstance(mine, Epoch)
        assert mine.number == theirs.number
        agree(untimed(mine), untimed(theirs))
        assert mine.correct is not None
        assert theirs.correct is not None
        assert np.array_equal(mine.correct(), theirs.correct())
    assert isinstance(found[-1], Epoch)
    agree(weights(found[-1].model), weights(expected[-1].model))


def several() -> dict[str, Regularizer]:
    return {
        **entropy(),
        "total_variation": TotalVariation(weight=1e-3, layers="all", query="mean", watch=True),
        "head_disagreement": HeadDisagreement(weight=0.1, layers="all"),
        "relative_localisation": RelativeLocalisation(weight=0.5, pairs=8, schedule="constant", watch=True),
        "mask_supervision": MaskSupervision(weight=0.1, schedule="constant"),
    }


def guided() -> dict[str, Regularizer]:
    torch.manual_seed(5)
    guide = GuideNetwork(20, num_classes=2, channels=1)
    return {
        "guided_transfer": GuidedTransfer(
            weight=0.1, source="given", with_cls=True, load_source=lambda spec: network(99, kwargs={"depth": 3})
        ),
        "locality_guidance": LocalityGuidance(weight=0.1, schedule="constant", guide=guide),
    }


def test_members_of_a_plain_recipe_are_the_runs_alone() -> None:
    check_members(replace(RECIPE, augment="none", label_smoothing=0.0), no_methods, members=3, drop_path=0.0)


def test_members_with_every_option_of_the_recipe_and_most_methods_are_the_runs_alone() -> None:
    check_members(FULL, several, members=3)


def test_members_with_methods_that_bring_a_network_are_the_runs_alone() -> None:
    check_members(RECIPE, guided, kwargs={"depth": 3})


@pytest.mark.parametrize(
    "changes",
    [
        {"last_block": "no_skip"},
        {"kwargs": {"qk_norm": True, "init_values": 0.1, "reg_tokens": 2}},
        {"kwargs": {"class_token": False, "global_pool": "avg", "qkv_bias": False}},
        {"kwargs": {"drop_rate": 0.1, "proj_drop_rate": 0.2, "pos_drop_rate": 0.1}},
        {"kwargs": {"patch_size": 5, "no_embed_class": True}},
        {"name": "deit_tiny_distilled_patch16_224"},
    ],
    ids=lambda changes: str(next(iter(changes.values()))),
)
def test_members_of_other_networks_are_the_runs_alone(changes: Any) -> None:
    has_cls = changes.get("kwargs", {}).get("class_token", True)
    check_members(RECIPE, entropy if has_cls else no_methods, **changes)


@pytest.mark.parametrize("optimizer", ["nadamw", "lion", "sgd"])
def test_members_of_other_optimizers_are_the_runs_alone(optimizer: str) -> None:
    # The bias of the keys has no gradient but rounding, of which lion's step is the sign.
    check_members(replace(RECIPE, optimizer=optimizer, clip_grad=0.1), entropy, kwargs={"qkv_bias": False})


def test_members_with_frozen_blocks_are_the_runs_alone() -> None:
    check_members(replace(RECIPE, ema_decay=0.9), entropy, prepare=lambda model: freeze(model, 1))


def save_all(folder: Path, models: Sequence[nn.Module], states: Sequence[TrainState]) -> None:
    for index, (model, state) in enumerate(zip(models, states, strict=True)):
        save_checkpoint(folder / str(index), model, {}, state=state)


def resumed(folder: Path, members: int) -> tuple[list[nn.Module], list[TrainState]]:
    """Networks with the weights of checkpoints, and their training states."""
    models = [network(9) for _ in range(members)]
    for index, model in enumerate(models):
        load_weights(folder / str(index), model)
    return models, [load_state(folder / str(index)) for index in range(members)]


def test_killed_stack_goes_on_as_single_runs_and_the_reverse(tmp_path: Path) -> None:
    unbroken = [alone(model, FULL, several, seed=seed) for model, seed in zip(networks(2), SEEDS, strict=False)]
    (first,) = together(networks(2), FULL, several, epochs=1)
    epochs = [first[0], first[1]]
    save_all(tmp_path / "stacked", [epoch.model for epoch in epochs], [epoch.state() for epoch in epochs])
    models, states = resumed(tmp_path / "stacked", 2)
    for index, seed in enumerate(SEEDS[:2]):
        later = alone(models[index], FULL, several, seed=seed, resume=states[index])
        check_epochs(later, unbroken[index][1:])

    for index, (model, seed) in enumerate(zip(networks(2), SEEDS, strict=False)):
        epoch = next(fit(model, batches(TRAIN), FULL, seed=seed, regularizers=several()))
        save_checkpoint(tmp_path / "single" / str(index), epoch.model, {}, state=epoch.state())
    for name in ("weights.safetensors", "state.pt"):
        mine, theirs = ((tmp_path / kind / "0" / name).stat().st_size for kind in ("stacked", "single"))
        assert mine < 1.01 * theirs  # a member's checkpoint has nothing of the others
    models, states = resumed(tmp_path / "single", 2)
    (later,) = together(models, FULL, several, resume=states)
    for index in range(2):
        check_epochs([later[index]], unbroken[index][1:])


def test_checkpoints_of_different_epochs_are_not_stacked() -> None:
    models = networks(2)
    states = [epochs[0].state() for epochs in (alone(models[0], seed=3), alone(models[1], seed=4)[1:])]
    with pytest.raises(CannotStack, match="different epochs"):
        together(models, resume=states)


@pytest.mark.parametrize("config", [RECIPE, FULL], ids=["plain", "full"])
def test_member_that_diverges_ends_and_the_others_go_on(config: TrainConfig) -> None:
    config = replace(config, epochs=3)
    stacked, single = networks(), networks()
    with torch.no_grad():
        stacked[1].get_parameter("head.bias").fill_(torch.inf)
    first, *later = together(stacked, config, epochs=3)
    assert isinstance(first[1], Diverged)
    assert first[1].epoch == 1
    assert [epochs.keys() for epochs in later] == [{0, 2}, {0, 2}]
    for index in (0, 2):
        epochs = alone(single[index], config, seed=SEEDS[index])
        check_epochs([each[index] for each in (first, *later)], epochs)


def test_stack_ends_when_all_members_have_diverged() -> None:
    stacked = networks(2)
    for model in stacked:
        with torch.no_grad():
            model.get_parameter("head.bias").fill_(torch.nan)
    (only,) = together(stacked)
    assert [type(only[index]) for index in (0, 1)] == [Diverged, Diverged]


def test_seconds_of_members_add_up_to_those_of_the_stack() -> None:
    started = time.perf_counter()
    (ended,) = together(networks(2), replace(RECIPE, epochs=1))
    epochs = [epoch for epoch in ended.values() if isinstance(epoch, Epoch)]
    assert 0 < sum(epoch.metrics["seconds"] for epoch in epochs) <= time.perf_counter() - started


def test_networks_have_parameters_of_their_own_when_the_run_is_over() -> None:
    models = networks(2)
    together(models, epochs=1)
    for parameter in (each for model in models for each in model.parameters()):
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


class OwnMethod(SpatialEntropy):
    pass


REFUSED: dict[str, tuple[Callable[[], nn.Module], TrainConfig, Methods, str]] = {
    "Swin": (
        lambda: small("swin_tiny_patch4_window7_224", SWIN, image_size=(24, 24)),
        RECIPE,
        no_methods,
        "SwinTransformer",
    ),
    "PVT": (lambda: small("pvt_v2_b0", PVT, image_size=(40, 24)), RECIPE, no_methods, "PyramidVisionTransformerV2"),
    "spatial prior": (
        lambda: network(0, spatial_prior=SpatialPriorConfig(blocks=1)),
        RECIPE,
        no_methods,
        "PriorAttention|buffers",
    ),
    "dropout inside attention": (
        lambda: network(0, kwargs={"attn_drop_rate": 0.1}),
        RECIPE,
        no_methods,
        "inside attention",
    ),
    "dropped patches": (lambda: network(0, kwargs={"patch_drop_rate": 0.1}), RECIPE, no_methods, "PatchDropout"),
    "sizes": (lambda: network(0, kwargs={"dynamic_img_size": True}), RECIPE, no_methods, "one size"),
    "lamb": (lambda: network(0), replace(RECIPE, optimizer="lamb"), no_methods, "lamb"),
    "gradient checkpointing": (
        lambda: network(0),
        replace(RECIPE, grad_checkpointing=True),
        no_methods,
        "train.grad_checkpointing",
    ),
    "compilation": (lambda: network(0), replace(RECIPE, compile="always"), no_methods, "train.compile"),
    "own method": (lambda: network(0), RECIPE, lambda: {"plugin": OwnMethod(weight=0.1)}, "OwnMethod"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stacked_says_why_and_is_left_as_it_was(case: str) -> None:
    build, config, methods, why = REFUSED[case]
    models = [build(), build()]
    before = [weights(model) for model in models]
    with pytest.raises(CannotStack, match=why):
        together(models, config, methods)
    for model, kept in zip(models, before, strict=True):
        assert same(weights(model), kept)
        assert not any(module._forward_hooks for module in model.modules())


def test_networks_of_two_configurations_are_not_stacked() -> None:
    with pytest.raises(CannotStack, match="differ"):
        together([network(0), network(0, kwargs={"num_heads": 2, "embed_dim": 32})])


def test_draws_of_a_member_are_those_of_torch_seeded_alike() -> None:
    streams = MemberStreams(2, CPU)
    streams.seed([7, 8])
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    found = torch.empty(5).bernoulli_(0.5, generator=streams.generators[1])
    with streams.of_member(1):
        more = torch.randint(100, (5,))
    last = torch.rand(5, generator=streams.generators[1])
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    assert torch.equal(found, torch.empty(5).bernoulli_(0.5))
    assert torch.equal(more, torch.randint(100, (5,)))
    assert torch.equal(last, torch.rand(5))


def test_one_call_for_all_norms_gives_what_one_a_member_gives() -> None:
    stack = stack_networks(networks(2))
    norm: Any = stack.get_submodule("norm")
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    inputs = torch.randn(6, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(norm.folded(inputs), norm(inputs), rtol=0, atol=1e-12)


def test_linear_layers_by_onednn_are_those_of_the_members_bit_for_bit() -> None:
    models = [network(seed).float() for seed in (0, 1)]
    stack = stack_networks(models)
    inputs = torch.randn(2, 7, 16)
    layer: Any = stack.get_submodule("blocks.0.mlp.fc1")
    with use_onednn_linear(stack), use_onednn_linear(models[0]), use_onednn_linear(models[1]):
        found = layer(inputs)
        for index, model in enumerate(models):
            own: Any = model.get_submodule("blocks.0.mlp.fc1")
            assert torch.equal(found[index], own(inputs[index]))
    assert isinstance(layer, StackedLinear)
    torch.testing.assert_close(layer.double()(inputs.double()), found.double(), rtol=1e-4, atol=1e-4)


def test_half_precision_trains_with_members_of_finite_losses() -> None:
    models = [network(seed).float() for seed in SEEDS[:2]]
    config = replace(RECIPE, precision="bfloat16", epochs=1)
    run = fit_stacked(
        models, batches(TRAIN, ImageBatches), config, seeds=SEEDS[:2], regularizers=[entropy() for _ in models]
    )
    (ended,) = run
    assert all(isinstance(epoch, Epoch) and np.isfinite(epoch.metrics["train/loss"]) for epoch in ended.values())
    assert all(parameter.dtype == torch.float32 for parameter in models[0].parameters())


@pytest.mark.gpu
def test_members_on_a_gpu_are_the_runs_alone() -> None:
    device = torch.device("cuda")
    stacked, single = ([model.to(device) for model in networks(2)] for _ in range(2))
    images = batches(TRAIN, device=device)
    *_, ended = fit_stacked(stacked, images, FULL, seeds=SEEDS[:2], regularizers=[several() for _ in stacked])
    for index, seed in enumerate(SEEDS[:2]):
        *_, last = fit(single[index], images, FULL, seed=seed, regularizers=several())
        found = ended[index]
        assert isinstance(found, Epoch)
        for name, value in weights(last.model).items():
            torch.testing.assert_close(weights(found.model)[name], value, rtol=0, atol=1e-7, msg=name)


@pytest.mark.gpu
def test_draws_of_a_member_on_a_gpu_are_those_of_torch_seeded_alike() -> None:
    device = torch.device("cuda")
    streams = MemberStreams(2, device)
    streams.seed([7, 8])
    found = torch.empty(500, 1, 1, device=device).bernoulli_(0.5, generator=streams.generators[1])
    with streams.of_member(1):
        more = torch.randint(100, (5,), device=device)
    torch.manual_seed(8)
    assert torch.equal(found, torch.empty(500, 1, 1, device=device).bernoulli_(0.5))
    assert torch.equal(more, torch.randint(100, (5,), device=device))
