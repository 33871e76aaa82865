"""Claims about fine-tuning: frozen weights stay to the bit, rates fall from block to block as timm has it, and both go
with every other option of the recipe.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import timm
import torch
from support.double_precision import DoubleBatches
from support.run_comparison import same, untimed, weights
from support.small_networks import SMALL, network
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from pipeline.config import parameters
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared
from pipeline.models.freeze import freeze
from pipeline.regularizers.base import Regularizer, RequiredFeatures
from pipeline.regularizers.features import carries_gradient
from pipeline.regularizers.head_disagreement import HeadDisagreement
from pipeline.regularizers.relative_localisation import RelativeLocalisation
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.checkpoint import load_state, load_weights, save_checkpoint
from pipeline.train.loop import Epoch, fit, seed_everything
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.train_config import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = TrainConfig(3, 9, 2e-3, 1e-5, 1, 0.1, 0.1, None)
FINE = replace(PLAIN, layer_decay=0.6, classifier_lr_scale=4.0)
EVERYTHING = replace(
    FINE, clip_grad=1.0, accumulate=2, mixup=0.8, ema_decay=0.9, precision="bfloat16", grad_checkpointing=True
)
OPTIMIZERS = get_args(parameters()["train.optimizer"].annotation)


def batches(ids: range, kind: type[ImageBatches] = ImageBatches) -> ImageBatches:
    rng = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int64) % 3
    images = rng.integers(0, 120, size=(40, 12, 12, 1), dtype=np.uint8)
    for row, label in enumerate(labels):
        images[row, :, 4 * label : 4 * (label + 1)] += 100
    prepared = Prepared(images, labels, None, {"classes": ["0", "1", "2"]})
    return kind(prepared, list(ids), Standardisation((0.4,), (0.3,)), torch.device("cpu"))


TRAIN, VAL = range(28), range(28, 40)


def sar() -> dict[str, Regularizer]:
    return {"spatial_entropy": SpatialEntropy(weight=0.5, layers="all")}


def tuned(frozen: int | str, **settings: Any) -> Any:
    model = network(**settings)
    freeze(model, frozen)
    return model


def epochs(model: nn.Module, config: TrainConfig, **changes: Any) -> Iterator[Epoch]:
    return fit(model, batches(TRAIN), config, **({"val": batches(VAL), "seed": 3} | changes))


# Groups and rates


def small(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"img_size": 12, "patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
    return timm.create_model(name, pretrained=False, **(sizes | kwargs))


NETWORKS = {
    "vit": lambda: small("vit_tiny_patch16_224"),
    "registers": lambda: small("vit_tiny_patch16_224", reg_tokens=2, qk_norm=True, init_values=1e-5),
    "distilled deit": lambda: small("deit_tiny_distilled_patch16_224"),
    "beit": lambda: small("beit_base_patch16_224"),
    "eva": lambda: small("eva02_tiny_patch14_224"),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=24, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=3
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("weight_decay", [0.05, 0.0])
def test_groups_are_timms_own(kind: str, optimizer: str, weight_decay: float) -> None:
    model = NETWORKS[kind]()
    config = replace(PLAIN, optimizer=optimizer, layer_decay=0.75, weight_decay=weight_decay)
    theirs = create_optimizer_v2(model, opt=optimizer, lr=config.lr, weight_decay=weight_decay, layer_decay=0.75)
    ours = make_optimizer(model, config)
    assert len(ours.param_groups) > 3
    for own, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert [id(weight) for weight in own["params"]] == [id(weight) for weight in other["params"]]
        named = ("lr", "lr_scale", "weight_decay")
        assert {name: own[name] for name in named} == {name: other[name] for name in named}


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("kind", NETWORKS)
def test_classifier_has_its_own_rate_and_everything_else_what_it_had(kind: str, decay: float) -> None:
    model = NETWORKS[kind]()
    config = replace(PLAIN, layer_decay=decay)
    before, after = (
        {
            id(weight): (group.get("lr_scale", 1.0), group["weight_decay"])
            for group in make_optimizer(model, given).param_groups
            for weight in group["params"]
        }
        for given in (config, replace(config, classifier_lr_scale=10.0))
    )
    classifiers = model.get_classifier()
    parts = classifiers if isinstance(classifiers, tuple) else (classifiers,)
    own = {id(weight) for part in parts for weight in part.parameters()}
    assert len(own) == 2 * len(parts)
    assert after == {key: (scale * 10 if key in own else scale, rate) for key, (scale, rate) in before.items()}
    assert {before[key][0] for key in own} == {1.0}


def rate_by_hand(name: str, decay: float, scale: float, depth: int = 3) -> float:
    block = re.match(r"blocks\.(\d+)\.", name)
    layer = int(block[1]) + 1 if block else depth if name.startswith("norm") else 0
    return scale if name.startswith("head") else decay ** (depth + 1 - layer)


@pytest.mark.parametrize("frozen", [0, 1, "all"])
@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
def test_run_is_that_of_one_optimizer_a_weight_each_at_its_own_rate(frozen: int | str, scheduler: str) -> None:
    """In float64, with torch's AdamW of every weight by itself; those that are frozen have none."""
    config = replace(FINE, scheduler=scheduler, epochs=2)
    tested, plain = tuned(frozen).double(), network().double()
    images = batches(TRAIN, kind=DoubleBatches)
    *_, last = fit(tested, images, config, seed=3)
    kept = {name for name, weight in tested.named_parameters() if not weight.requires_grad}
    optimizers = {}
    for name, weight in plain.named_parameters():
        decay = 0.0 if weight.ndim < 2 or name in ("pos_embed", "cls_token") else config.weight_decay
        if name not in kept:
            optimizers[name] = torch.optim.AdamW([weight], lr=1.0, weight_decay=decay)
    plain.train()
    for step in range(8):
        # Four steps an epoch, of which the first is the warm-up.
        at = (step - 4) / 4
        shape = {"cosine": 0.5 * (1 + np.cos(np.pi * at)), "linear": 1 - at, "constant": 1.0}[scheduler]
        low = 0.0 if scheduler == "constant" else config.min_lr
        lr = low + (config.lr - low) * shape if step >= 4 else config.lr * (step + 1) / 5
        if step % 4 == 0:
            order = iter(list(images.shuffled(9, seed=3, epoch=step // 4)))
        inputs, labels = next(order)
        plain.zero_grad()
        loss = nn.functional.cross_entropy(plain(inputs), labels, label_smoothing=config.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = lr * rate_by_hand(name, 0.6, 4.0)
            optimizer.step()
    assert last.metrics["train/lr"] == pytest.approx(lr, rel=1e-12)
    mine, theirs = (_seen(weights(model)) for model in (tested, plain))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def _seen(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the keys' biases: softmax does not see them, and Adam makes whole steps of the rounding in 0."""
    return {name: each[[*range(16), *range(32, 48)]] if "qkv.bias" in name else each for name, each in tensors.items()}


def test_defaults_leave_the_optimizer_as_it_was() -> None:
    model = network()
    theirs = create_optimizer_v2(model, opt="adamw", lr=PLAIN.lr, weight_decay=0.1, fused=True)
    ours = make_optimizer(model, PLAIN)
    assert ours.defaults == theirs.defaults
    for own, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert own.keys() == other.keys()
        assert all(own[key] == other[key] for key in own if key != "params")
        assert [id(weight) for weight in own["params"]] == [id(weight) for weight in other["params"]]


# Frozen weights


@pytest.mark.parametrize("frozen", [1, 3, "all"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_weights_stay_to_the_bit_and_have_no_state(frozen: int | str, optimizer: str) -> None:
    model = tuned(frozen, drop_path=0.3)
    before = weights(model)
    kept = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    config = replace(EVERYTHING, epochs=1, optimizer=optimizer, weight_decay=0.5, lr=0.01)
    (epoch,) = epochs(model, config, regularizers=sar() if frozen == 1 else None)
    assert kept
    for found in (weights(model), weights(epoch.model)):
        assert all(torch.equal(found[name], before[name]) == (name in kept) for name in found)
    state = epoch.state()["optimizer"]
    grouped = [number for group in state["param_groups"] for number in group["params"]]
    assert len(grouped) == len(before) - len(kept) >= len(state["state"])


@pytest.mark.parametrize("frozen", [1, "all"])
def test_run_with_everything_on_is_resumed_as_the_unbroken_run(frozen: int | str, tmp_path: Path) -> None:
    methods = dict if frozen == "all" else sar
    model, metrics = tuned(frozen, drop_path=0.3), []
    for epoch in epochs(model, EVERYTHING, regularizers=methods()):
        metrics.append(untimed(epoch))
        if epoch.number < 3:
            save_checkpoint(tmp_path / str(epoch.number), epoch.model, {}, state=epoch.state())
    for done in (1, 2):
        again = tuned(frozen, drop_path=0.3, noise=0.5)
        load_weights(tmp_path / str(done), again)
        seed_everything(12345)
        state = load_state(tmp_path / str(done))
        later = list(epochs(again, EVERYTHING, regularizers=methods(), resume=state))
        assert [untimed(each) for each in later] == metrics[done:]
        assert same(weights(again), weights(model))
        assert same(weights(later[-1].model), weights(epoch.model))


@pytest.mark.parametrize("frozen", [0, 2, "all"])
def test_run_in_micro_batches_is_the_run_in_whole_batches_but_for_rounding(frozen: int | str) -> None:
    train, val = (batches(ids, kind=DoubleBatches) for ids in (TRAIN, VAL))
    whole, parts = (
        [untimed(epoch) for epoch in fit(tuned(frozen).double(), train, given, val=val, seed=3)]
        for given in (FINE, replace(FINE, accumulate=3))
    )
    for first, second in zip(whole, parts, strict=True):
        assert second == pytest.approx(first, rel=1e-8, abs=1e-8)


def test_only_trained_blocks_are_computed_again_going_backward() -> None:
    model = tuned(2)
    runs = [0, 0, 0]

    def count(number: int) -> None:
        runs[number] += torch.is_grad_enabled()

    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda module, inputs, number=number: count(number))
    list(epochs(model, replace(PLAIN, epochs=1, grad_checkpointing=True)))
    assert runs == [4, 4, 8]  # of four batches


# Regularisers of frozen blocks

READS = "reads only parts that model.freeze freezes, so it has no gradient"
METHODS = {
    "spatial_entropy": lambda layers, weight: SpatialEntropy(weight=weight, layers=layers),
    "head_disagreement": lambda layers, weight: HeadDisagreement(weight=weight, layers=layers, watch=True),
}


@pytest.mark.parametrize("name", METHODS)
def test_method_all_of_whose_blocks_are_frozen_is_refused_and_others_are_not(name: str) -> None:
    for frozen, layers, refused in [
        (1, (0,), True),
        (2, (0, 1), True),
        (2, (1, 2), False),
        (2, "all", False),
        (2, "last", False),
        (3, "all", True),
        ("all", "last", True),
        (0, (0,), False),
    ]:
        model = tuned(frozen)
        for weight in (0.5, 0.0):
            given = {name: METHODS[name](layers, weight)}
            if refused and weight:
                with pytest.raises(ValueError, match=rf"^regularizer\.{name}: {READS}"):
                    Objective(model, given, planned_epochs=2)
            else:
                with Objective(model, given, planned_epochs=2) as objective:
                    objective.score(torch.zeros(2, 1, 12, 12), torch.zeros(2, dtype=torch.long))
        assert not any(part._forward_hooks for part in model.modules())


def test_method_of_the_final_tokens_has_a_gradient_as_long_as_the_final_norm_is_trained() -> None:
    def given() -> dict[str, Regularizer]:
        return {"relative_localisation": RelativeLocalisation(weight=0.5, pairs=4)}

    for frozen in (0, 2, 3):
        Objective(tuned(frozen), given(), planned_epochs=2).close()
    with pytest.raises(ValueError, match=rf"^regularizer\.relative_localisation: {READS}"):
        Objective(tuned("all"), given(), planned_epochs=2)
    mean = {"class_token": False, "global_pool": "avg", "fc_norm": True}
    pooled = network(kwargs={**SMALL, **mean})
    freeze(pooled, 3)  # its norm comes after pooling, which these tokens do not see
    with pytest.raises(ValueError, match=READS):
        Objective(pooled, given(), planned_epochs=2)


def test_gradient_of_a_method_goes_into_the_blocks_that_are_trained_alone() -> None:
    """That of all blocks' maps, of which those of frozen blocks are constants."""
    gradients = []
    for frozen in (0, 1):
        model = tuned(frozen).double().train()
        with Objective(model, {"spatial_entropy": SpatialEntropy(weight=0.5, layers="all", schedule="constant")}, planned_epochs=2) as objective:  # fmt: skip
            inputs, labels = next(batches(TRAIN, kind=DoubleBatches).in_order(9))
            objective.step(inputs, labels, 0).total.backward()  # type: ignore[no-untyped-call, unused-ignore]
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    full, partial = gradients
    assert set(partial) == {name for name in full if name.startswith(("blocks.1", "blocks.2", "norm", "head"))}
    torch.testing.assert_close(partial, {name: full[name] for name in partial}, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("frozen", "carries"), [(0, True), (1, True), (2, True), (3, False), ("all", False)])
def test_tokens_of_blocks_have_a_gradient_where_one_of_these_blocks_is_trained(
    frozen: int | str, carries: bool
) -> None:
    model = tuned(frozen)
    assert carries_gradient(model, RequiredFeatures(blocks=[0, 2])) is carries
    assert carries_gradient(model, RequiredFeatures(blocks=[0])) is (frozen == 0)
    assert carries_gradient(model, RequiredFeatures(masks=True))  # it collects nothing of the network
