"""Claims about freezing: which weights it takes, and that what is frozen needs no gradient and draws nothing."""

from typing import Any

import pytest
import torch
from support.small_networks import PVT, SMALL, SWIN, blocks_of, network, pictures
from torch import Tensor, nn

from pipeline.models.freeze import count_frozen, enter_training, freeze
from pipeline.models.model_config import SpatialPriorConfig

MEAN = {"class_token": False, "global_pool": "avg", "fc_norm": True}
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("vit_tiny_patch16_224", SMALL, 12),
    "registers, norm before": ("vit_tiny_patch16_224", {**SMALL, "reg_tokens": 2, "pre_norm": True}, 12),
    "distilled": ("deit_tiny_distilled_patch16_224", SMALL, 12),
    "pooled by mean": ("vit_tiny_patch16_224", {**SMALL, **MEAN}, 12),
    "pooled by attention": ("vit_tiny_patch16_224", {**SMALL, "class_token": False, "global_pool": "map"}, 12),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, 24),
    "pvt": ("pvt_v2_b0", PVT, 40),
}
CASES = [(kind, count) for kind in NETWORKS for count in range(1, (4 if "swin" not in kind else 3) + (kind == "pvt"))]


def made(kind: str, **settings: Any) -> Any:
    name, kwargs, side = NETWORKS[kind]
    return network(name, kwargs, image_size=(side, side), **settings)


def frozen_names(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if not weight.requires_grad}


def names_before(model: Any, count: int) -> set[str]:
    """The weights on which the tokens depend that enter a block, by autograd; of the one after the last, the norm."""
    entered: list[Tensor] = []
    blocks = blocks_of(model)
    if count < len(blocks):
        blocks[count].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    else:
        blocks[-1].register_forward_hook(lambda module, inputs, output: entered.append(output))
    side = NETWORKS["pvt"][2] if hasattr(model, "stages") else (24 if hasattr(model, "layers") else 12)
    model(pictures(side, side))
    weights = dict(model.named_parameters())
    found = torch.autograd.grad(entered[0].sum(), list(weights.values()), allow_unused=True)
    return {name for name, gradient in zip(weights, found, strict=True) if gradient is not None}


@pytest.mark.parametrize(("kind", "count"), CASES)
def test_frozen_are_the_blocks_and_all_that_they_are_given(kind: str, count: int) -> None:
    model = made(kind)
    freeze(model, count)
    assert frozen_names(model) == names_before(made(kind), count)
    assert count_frozen(model) == count
    assert not any(weight.requires_grad for block in blocks_of(model)[:count] for weight in block.parameters())
    assert all(weight.requires_grad for block in blocks_of(model)[count:] for weight in block.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_leaves_the_classifiers_and_nothing_leaves_everything(kind: str) -> None:
    model = made(kind)
    freeze(model, 0)
    assert frozen_names(model) == set()
    assert count_frozen(model) == 0
    freeze(model, "all")
    left = {name for name, weight in model.named_parameters() if weight.requires_grad}
    heads = ("head", "head_dist") if kind == "distilled" else ("head.fc",) if kind == "swin" else ("head",)
    assert left == {f"{head}.{part}" for head in heads for part in ("weight", "bias")}
    assert count_frozen(model) == len(blocks_of(model))


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_block_frozen_leaves_the_final_norm_too(kind: str) -> None:
    model = made(kind)
    freeze(model, len(blocks_of(model)))
    left = {name.rpartition(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    norm = {"pvt": "stages.2.norm", "pooled by mean": "fc_norm"}.get(kind, "norm")
    assert norm in left
    assert all(name.startswith((norm, "head", "attn_pool")) for name in left)


def test_more_blocks_than_there_are_and_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^freeze: 4 blocks cannot be frozen in a network of 3; take 0 to 3, or all$"):
        freeze(network(), 4)
    with pytest.raises(ValueError, match=r"^freeze: given 'most'; allowed: a number of blocks, or all$"):
        freeze(network(), "most")
    with pytest.raises(ValueError, match="Linear has no blocks"):
        freeze(nn.Linear(2, 2), 1)
    assert count_frozen(nn.Linear(2, 2)) == 0


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("count", [1, 2, "all"])
def test_frozen_blocks_have_no_graph_and_no_backward_pass(kind: str, count: int | str) -> None:
    model = made(kind)
    blocks, ways, passes = blocks_of(model), list[bool](), list[int]()
    freeze(model, count)
    enter_training(model)

    def watch(number: int, output: Tensor) -> None:
        ways.append(output.requires_grad)
        if output.requires_grad:
            output.register_hook(lambda gradient: passes.append(number))

    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda module, inputs, output, number=number: watch(number, output))
    side = NETWORKS[kind][2]
    model(pictures(side, side)).sum().backward()
    first = len(blocks) if count == "all" else int(count)
    assert ways == [number >= first for number in range(len(blocks))]
    assert passes == list(reversed(range(first, len(blocks))))
    assert all((weight.grad is not None) == weight.requires_grad for weight in model.parameters())


DROPPING = {"proj_drop_rate": 0.3, "attn_drop_rate": 0.3, "pos_drop_rate": 0.3, "drop_rate": 0.3}


@pytest.mark.parametrize("kind", ["vit", "swin", "pvt"])
@pytest.mark.parametrize("count", [1, 2, "all"])
def test_frozen_blocks_give_in_training_what_they_give_in_evaluation_and_the_others_drop(
    kind: str, count: int | str
) -> None:
    name, kwargs, side = NETWORKS[kind]
    dropping = DROPPING if kind == "vit" else {key: DROPPING[key] for key in ("proj_drop_rate", "drop_rate")}
    patches = {"patch_drop_rate": 0.5} if kind == "vit" else {}
    model = network(name, {**kwargs, **dropping, **patches}, image_size=(side, side), drop_path=0.5)
    freeze(model, count)
    outputs: list[Tensor] = []
    first = len(blocks_of(model)) if count == "all" else int(count)
    blocks_of(model)[first - 1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    images = pictures(side, side)
    evaluated = model.eval()(images)
    for _ in range(2):
        enter_training(model)
        assert not torch.equal(model(images), evaluated)  # by the dropout before the classifier, where all is frozen
    assert all(torch.equal(each, outputs[0]) for each in outputs)


def test_network_of_which_nothing_is_frozen_is_in_training_mode_throughout() -> None:
    model = network()
    enter_training(model)
    assert all(part.training for part in model.modules())


def test_prior_and_convolutions_of_frozen_blocks_are_frozen_with_them() -> None:
    model = network(spatial_prior=SpatialPriorConfig(3, None, True))
    freeze(model, 2)
    for number, block in enumerate(model.blocks):
        parts = [*block.attn.prior.parameters(), *block.positional_conv.parameters()]
        assert all(weight.requires_grad == (number >= 2) for weight in parts)
