"""Claims about the spatial prior: it starts as plain attention bit for bit, and is then the MLP pair by pair."""

import copy
from typing import Any

import pytest
import torch
from support.small_networks import PVT, SMALL, SWIN, network, pictures, softmaxed
from torch import Tensor

from pipeline.models.model_config import SpatialPriorConfig
from pipeline.models.spatial_prior import SpatialPrior
from pipeline.models.tap import HeadTap, SimilarityTap
from pipeline.train.optim import make_optimizer
from pipeline.train.train_config import TrainConfig

ALL = SpatialPriorConfig(blocks=3)
NETWORKS = [
    pytest.param("vit_tiny_patch16_224", {}, (12, 12), id="plain"),
    pytest.param("vit_tiny_patch16_224", {"qk_norm": True}, (8, 14), id="qk_norm, not square"),
    pytest.param("deit_tiny_distilled_patch16_224", {}, (12, 12), id="distilled"),
    pytest.param("vit_small_patch14_reg4_dinov2", {}, (12, 12), id="registers"),
    pytest.param("vit_base_patch16_gap_224", {}, (12, 2), id="GAP, one column"),
    pytest.param("vit_base_patch16_rpn_224", {}, (12, 12), id="norm after attention"),
    pytest.param("vit_tiny_patch16_224", {"scale_attn_norm": True, "qkv_bias": False}, (12, 12), id="scaled norm"),
]


def shaken(prior: SpatialPrior) -> SpatialPrior:
    """The prior with weights of a size that they could have after training."""
    for parameter in prior.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return prior


def pair_by_pair(prior: SpatialPrior, grid: tuple[int, int]) -> Tensor:
    """SP_ij = w2 . relu(W1 r_ij + b1) + b2, for one head and one pair of patches after the other, (A, N, N)."""
    height, width = grid
    places = [(row, column) for row in range(height) for column in range(width)]
    heads = []
    for head in range(prior.heads):
        rows = slice(head * prior.hidden, (head + 1) * prior.hidden)
        first, bias = prior.inner.weight[rows], prior.inner.bias[rows]
        line = []
        for query_row, query_column in places:
            for key_row, key_column in places:
                offset = torch.tensor([key_column - query_column, key_row - query_row]).to(first)
                hidden = (first @ offset + bias).clamp(min=0)
                line.append(prior.outer_weight[head] @ hidden + prior.outer_bias[head])
        heads.append(torch.stack(line).view(len(places), len(places)))
    return torch.stack(heads)


@pytest.mark.parametrize("grid", [(3, 4), (1, 5), (5, 1), (1, 1), (4, 4)])
def test_prior_is_the_mlp_evaluated_pair_by_pair(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    prior = shaken(SpatialPrior(2, 6, grid)).double()
    expected = pair_by_pair(prior, grid)
    torch.testing.assert_close(prior(), expected, rtol=1e-10, atol=1e-10)
    weighting = torch.randn(expected.shape, dtype=torch.float64)
    found = torch.autograd.grad((prior() * weighting).sum(), list(prior.parameters()))
    wanted = torch.autograd.grad((expected * weighting).sum(), list(prior.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_prior_tells_left_from_right_and_up_from_down() -> None:
    prior = SpatialPrior(1, 1, (2, 2))
    prior.inner.weight.data.copy_(torch.tensor([[1.0, 0.0]]))  # x alone
    prior.outer_weight.data.fill_(1.0)
    assert prior()[0].tolist() == [[1, 2, 1, 2], [1, 1, 1, 1], [1, 2, 1, 2], [1, 1, 1, 1]]
    prior.inner.weight.data.copy_(torch.tensor([[0.0, 1.0]]))  # y alone
    assert prior()[0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_only_distinct_offsets_are_evaluated() -> None:
    prior = SpatialPrior(2, 6, (3, 4))
    rows: list[int] = []
    prior.inner.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    prior()
    assert rows == [5 * 7]
    assert len({tuple(offset) for offset in prior.offsets.tolist()}) == 5 * 7


def test_prior_starts_as_exactly_one_with_small_first_weights() -> None:
    prior = SpatialPrior(3, 400, (14, 14))
    assert torch.equal(prior(), torch.ones(3, 196, 196))
    assert prior.inner.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert prior.inner.bias.abs().max() == 0


@pytest.mark.parametrize(("name", "kwargs", "image_size"), NETWORKS)
@pytest.mark.parametrize("conv", [False, True])
def test_network_starts_with_the_bits_of_the_plain_one_whose_attention_is_not_fused(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int], conv: bool
) -> None:
    images = pictures(*image_size)
    plain = network(name, SMALL | kwargs, image_size=image_size, drop_path=0.2, noise=0.0)
    prior = network(
        name, SMALL | kwargs, image_size=image_size, drop_path=0.2, noise=0.0, spatial_prior=SpatialPriorConfig(2, None, conv)
    )  # fmt: skip
    fused = (copy.deepcopy(model).double().eval()(images.double()) for model in (plain, prior))
    torch.testing.assert_close(*fused, rtol=0, atol=1e-12)  # the same but for rounding
    for block in plain.blocks[:2]:
        block.attn.fused_attn = False  # the last block stays fused in both
    for training in (False, True):
        outputs = []
        for model in (plain, prior):
            torch.manual_seed(3)
            outputs.append(model.train(training)(images))
        assert torch.equal(*outputs)
        for output in outputs:
            output.square().sum().backward()
    shared = dict(prior.named_parameters())
    for key, parameter in plain.named_parameters():
        assert torch.equal(parameter, shared[key]), key
        assert torch.equal(parameter.grad, shared[key].grad), key


def test_network_starts_with_those_bits_under_autocast_too() -> None:
    plain, prior = network(noise=0.0), network(noise=0.0, spatial_prior=ALL)
    for block in plain.blocks:
        block.attn.fused_attn = False
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(plain(pictures()), prior(pictures()))


def test_small_departures_of_the_prior_from_one_are_not_rounded_away_under_autocast() -> None:
    model = network(noise=0.0, spatial_prior=ALL)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = softmaxed(model, pictures())[0]
        model.blocks[0].attn.prior.outer_bias.data.fill_(1.001)  # between 1 and the next number of half precision
        after = softmaxed(model, pictures())[0]
    torch.testing.assert_close(after[:, :, 1:, 1:], before[:, :, 1:, 1:].float() * 1.001, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "kwargs", "image_size"), NETWORKS)
def test_attention_is_the_softmax_of_logits_times_prior(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int]
) -> None:
    model = network(name, SMALL | kwargs, image_size=image_size, spatial_prior=ALL)
    for block in model.blocks:
        shaken(block.attn.prior)
    model, images = model.double(), pictures(*image_size).double()
    grid, prefix = (image_size[0] // 2, image_size[1] // 2), model.num_prefix_tokens
    entered: list[Tensor] = []
    model.blocks[1].attn.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    with HeadTap(model, (1,)) as heads:
        taken = softmaxed(model, images)
    attention = model.blocks[1].attn
    query, key, value = attention.qkv(entered[0]).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    logits = attention.q_norm(query) @ attention.k_norm(key).transpose(-2, -1) / 8**0.5
    factor = torch.ones(2, prefix + grid[0] * grid[1], prefix + grid[0] * grid[1], dtype=torch.float64)
    factor[:, prefix:, prefix:] = pair_by_pair(attention.prior, grid)
    assert (factor[:, prefix:, prefix:] != 1).any()
    torch.testing.assert_close(taken[1], logits * factor, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(heads.outputs()[:, 0], (logits * factor).softmax(-1) @ value, rtol=1e-9, atol=1e-9)


def test_similarity_maps_are_the_logits_before_the_prior() -> None:
    model, images = network(spatial_prior=ALL), pictures()
    plain = network()
    plain.load_state_dict(model.state_dict(), strict=False)
    for block in model.blocks:
        shaken(block.attn.prior)
    for query in ("cls", "mean"):
        with SimilarityTap(model, (0,), query) as tap, SimilarityTap(plain, (0,), query) as other, torch.no_grad():
            model(images)
            plain(images)
        assert torch.equal(tap.maps(), other.maps())


def test_maps_in_blocks_with_the_prior_lead_gradients_to_the_priors_before_them() -> None:
    model = network(spatial_prior=ALL)
    with SimilarityTap(model, "last") as tap:
        model(pictures())
        tap.maps().square().sum().backward()
    assert model.blocks[0].attn.prior.outer_weight.grad.abs().max() > 0
    assert model.blocks[2].attn.prior.outer_weight.grad is None


def test_prior_learns_from_the_first_step() -> None:
    model = network(noise=0.0, spatial_prior=SpatialPriorConfig(1)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.blocks[0].attn.prior()
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pictures()), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    assert (model.blocks[0].attn.prior() - before).abs().max() > 0
    assert model.blocks[0].attn.prior.inner.weight.grad.abs().max() > 0


def test_gradients_with_checkpointing_are_those_without() -> None:
    model = network(spatial_prior=SpatialPriorConfig(2, None, True)).double().train()
    grads = []
    for checkpointed in (False, True):
        model.set_grad_checkpointing(checkpointed)
        model.zero_grad()
        with SimilarityTap(model, "all") as tap:
            (model(pictures().double()).square().sum() + tap.maps().square().sum()).backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_last_bias_and_first_bias_stay_out_of_weight_decay_and_the_weights_do_not() -> None:
    model = network(spatial_prior=SpatialPriorConfig(1, None, True))
    config = TrainConfig(16, 64, 0.002, 0.0, 1, 0.3, 0.0, None, 1)
    optimizer = make_optimizer(model, config)
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    prior = model.blocks[0].attn.prior
    assert [decayed[id(each)] for each in (prior.outer_bias, prior.inner.bias)] == [0.0, 0.0]
    assert [decayed[id(each)] for each in (prior.outer_weight, prior.inner.weight)] == [0.3, 0.3]
    assert decayed[id(model.blocks[2].positional_conv.conv.bias)] == 0.0


@pytest.mark.parametrize(("hidden", "width"), [(None, 8), (5, 5)])
def test_hidden_width_is_that_of_a_head_unless_it_is_given(hidden: int | None, width: int) -> None:
    model = network(spatial_prior=SpatialPriorConfig(2, hidden))
    assert [hasattr(block.attn, "prior") for block in model.blocks] == [True, True, False]
    assert model.blocks[0].attn.prior.outer_weight.shape == (2, width)


def test_weights_of_the_plain_network_load_and_only_the_priors_are_missing() -> None:
    model = network(spatial_prior=SpatialPriorConfig(1))
    missing, unexpected = model.load_state_dict(network().state_dict(), strict=False)
    assert unexpected == []
    names = ("outer_weight", "outer_bias", "inner.weight", "inner.bias")
    assert set(missing) == {f"blocks.0.attn.prior.{name}" for name in names}


def test_convolution_adds_its_own_to_the_patches_and_leaves_prefix_tokens() -> None:
    model = network(
        "vit_small_patch14_reg4_dinov2", image_size=(8, 12), spatial_prior=SpatialPriorConfig(0, None, True)
    ).double()
    assert [hasattr(block, "positional_conv") for block in model.blocks] == [True, True, True]
    assert not any(hasattr(block.attn, "prior") for block in model.blocks)
    tokens = torch.randn(2, 5 + 4 * 6, 16, dtype=torch.float64)
    block = model.blocks[1]
    with torch.no_grad():
        found, before = block(tokens), block.forward(tokens)  # `forward` alone runs no hooks
    weight, bias = block.positional_conv.conv.weight, block.positional_conv.conv.bias
    assert torch.equal(found[:, :5], before[:, :5])
    for row, column, channel in ((0, 0, 0), (1, 3, 7), (3, 5, 15), (2, 0, 4)):
        total = bias[channel] + before[0, 5 + row * 6 + column, channel]
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                if 0 <= row + down < 4 and 0 <= column + right < 6:
                    near = before[0, 5 + (row + down) * 6 + column + right, channel]
                    total = total + weight[channel, 0, down + 1, right + 1] * near
        torch.testing.assert_close(found[0, 5 + row * 6 + column, channel], total, rtol=0, atol=1e-12)


def test_prior_convolution_and_last_block_without_skip_go_together() -> None:
    both = network(last_block="no_skip", spatial_prior=SpatialPriorConfig(3, None, True))
    assert type(both.blocks[2]).__name__ == "NoSkipBlock"
    assert hasattr(both.blocks[2].attn, "prior")
    assert hasattr(both.blocks[2], "positional_conv")
    with SimilarityTap(both, "all") as tap:
        assert both(pictures()).shape == (4, 3)
    assert tap.maps().shape == (4, 3, 2, 6, 6)


@pytest.mark.parametrize("masks", [{"attn_mask": torch.zeros(37, 37)}, {"is_causal": True}])
def test_masks_are_refused(masks: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="takes no mask"):
        network(spatial_prior=ALL)(pictures(), **masks)


@pytest.mark.parametrize(
    ("name", "kwargs", "config", "said"),
    [
        (
            "vit_tiny_patch16_224",
            SMALL,
            SpatialPriorConfig(4),
            "blocks: given 4, but this network has 3 blocks; take 0 to 3",
        ),
        ("vit_tiny_patch16_224", SMALL, SpatialPriorConfig(-1), "blocks: given -1, but this network has"),
        ("vit_tiny_patch16_224", SMALL, SpatialPriorConfig(1, 0), "at least one hidden unit, not 0"),
        ("vit_tiny_patch16_224", SMALL | {"dynamic_img_size": True}, ALL, "no dynamic_img_size, no patch_drop_rate"),
        ("vit_tiny_patch16_224", SMALL | {"patch_drop_rate": 0.1}, ALL, "no dynamic_img_size, no patch_drop_rate"),
        ("vit_tiny_patch16_224", SMALL | {"attn_layer": "diff"}, ALL, "block 0, a Block, has a DiffAttention"),
        ("vit_small_patch16_18x2_224", SMALL, ALL, "block 0, a ParallelThingsBlock, has none"),
        ("swin_tiny_patch4_window7_224", SWIN, ALL, "this is a SwinTransformer; take blocks: 0"),
        ("pvt_v2_b0", PVT, ALL, "this is a PyramidVisionTransformerV2; take blocks: 0"),
    ],
)
def test_networks_that_cannot_have_the_prior_are_refused(
    name: str, kwargs: dict[str, Any], config: SpatialPriorConfig, said: str
) -> None:
    with pytest.raises(ValueError, match=f"^spatial_prior: {name}: .*{said}"):
        network(name, kwargs, image_size=(24, 24), spatial_prior=config)
