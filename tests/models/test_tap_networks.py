"""Claims about the tap on every kind of network: against timm's own attention where it is not fused, in float64; and as far
as a block.
"""

from typing import Any

import pytest
import torch
from support.small_networks import (
    PVT,
    SMALL,
    SWIN,
    blocks_of,
    hooks,
    logits_by_hand,
    network,
    pictures,
    softmaxed,
    unfused,
)
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.architecture import describe_network
from pipeline.models.tap import HeadTap, SimilarityTap, TokenTap, run_to_block

# Against timm's own attention where it is not fused: other kinds of network, other queries, other sizes.

CASES = [
    pytest.param("vit_tiny_patch16_224", {"depth": 2}, (224, 224), id="vit_tiny"),
    pytest.param("vit_small_patch16_224", {"depth": 2}, (224, 224), id="vit_small"),
    pytest.param("deit_tiny_distilled_patch16_224", SMALL, (12, 12), id="distilled"),
    pytest.param("vit_small_patch14_reg4_dinov2", SMALL, (12, 16), id="registers"),
    pytest.param("vit_tiny_patch16_224", SMALL | {"qk_norm": True}, (12, 12), id="qk_norm"),
    pytest.param("vit_base_patch16_gap_224", SMALL, (8, 14), id="GAP"),
    pytest.param("vit_tiny_patch16_224", SMALL | {"class_token": False, "global_pool": "max", "reg_tokens": 2}, (12, 12), id="registers alone"),
    pytest.param("vit_base_patch16_siglip_224", SMALL, (12, 12), id="attention pooling"),
    pytest.param("vit_tiny_patch16_224", SMALL | {"depth": 1, "num_heads": 1}, (2, 2), id="one patch"),
    pytest.param("swin_tiny_patch4_window7_224", SWIN, (24, 24), id="swin"),
    pytest.param("swin_s3_tiny_224", SWIN | {"window_size": 7}, (24, 40), id="swin, not square"),
    pytest.param("pvt_v2_b0", PVT, (40, 24), id="pvt"),
    pytest.param("pvt_v2_b0", PVT | {"qkv_bias": False}, (41, 33), id="pvt, odd sides"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs", "image_size"), CASES)
def test_maps_are_those_of_timms_unfused_path(name: str, kwargs: dict[str, Any], image_size: tuple[int, int]) -> None:
    model = network(name, kwargs, image_size=image_size, noise=0.03).double()
    images = pictures(*image_size, count=2).double()
    anatomy = describe_network(model)
    layers = tuple(anatomy.stage)
    for query in ("mean", "cls") if anatomy.has_cls else ("mean",):
        with SimilarityTap(model, layers, query) as tap, torch.no_grad():
            model(images)
        with torch.no_grad():
            taken = softmaxed(model, images)
        for index, layer in enumerate(layers):
            logits = taken[layer]
            attention = blocks_of(model)[layer].attn
            if hasattr(attention, "relative_position_bias_table"):
                assert attention.relative_position_bias_table.abs().max() > 0
                logits = logits - attention._get_rel_pos_bias()
            rows = logits[:, :, anatomy.prefix :].mean(2) if query == "mean" else logits[:, :, 0]
            expected = rows[:, :, anatomy.prefix :].unflatten(-1, anatomy.grid)
            torch.testing.assert_close(tap.maps()[:, index], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("name", "kwargs", "image_size"), CASES)
def test_head_outputs_are_attention_times_values(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int]
) -> None:
    model = network(name, kwargs, image_size=image_size, noise=0.03).double()
    images = pictures(*image_size, count=2).double()
    anatomy = describe_network(model)
    values: dict[int, Tensor] = {}
    layers = tuple(anatomy.stage)
    for layer in layers:
        attention = blocks_of(model)[layer].attn
        last = attention.kv if anatomy.kind == "pvt" else attention.qkv

        def keep(
            module: nn.Module, inputs: Any, output: Tensor, layer: int = layer, attention: Any = attention
        ) -> None:
            each = output[
                ..., -attention.num_heads * (blocks_of(model)[layer].norm1.weight.numel() // attention.num_heads) :
            ]
            values[layer] = each.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

        last.register_forward_hook(keep)
    with HeadTap(model, layers) as tap, torch.no_grad():
        model(images)
    with torch.no_grad():
        taken = softmaxed(model, images)
    tokens = anatomy.prefix + anatomy.grid[0] * anatomy.grid[1]
    assert tap.outputs().shape[:2] == (2, len(layers))
    assert tap.outputs().shape[3] == tokens
    for index, layer in enumerate(layers):
        expected = taken[layer].softmax(-1) @ values[layer]
        torch.testing.assert_close(tap.outputs()[:, index], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("more", [{"gated": True}, {"scale_norm": True}])
def test_head_outputs_come_before_the_norm_and_the_gate_that_join_heads(more: dict[str, bool]) -> None:
    from timm.layers import Attention

    model = network()
    torch.manual_seed(1)
    attention: Any = Attention(16, num_heads=2, qkv_bias=True, norm_layer=nn.LayerNorm, **more)
    model.blocks[1].attn = attention
    seen: list[Tensor] = []
    fused = F.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch, HeadTap(model, (1,)) as tap:
        patch.setattr(
            F,
            "scaled_dot_product_attention",
            lambda *given, **named: (seen.append(fused(*given, **named)), seen[-1])[1],
        )
        model(pictures())
    assert torch.equal(tap.outputs()[:, 0], seen[1])


@pytest.mark.parametrize(("name", "kwargs", "image_size"), CASES)
def test_tokens_are_what_the_head_makes_its_logits_of(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int]
) -> None:
    model, images = network(name, kwargs, image_size=image_size), pictures(*image_size)
    anatomy = describe_network(model)
    with TokenTap(model) as tap, torch.no_grad():
        logits = model(images)
        features = model.forward_features(images)
        tokens = tap.tokens()
    assert tokens.shape[:3] == (4, *anatomy.grid)
    with torch.no_grad():
        if anatomy.kind == "vit":
            features[:, anatomy.prefix :] = tokens.flatten(1, 2)
            found = model.forward_head(features)
        else:
            found = model.forward_head(tokens if anatomy.kind == "swin" else tokens.permute(0, 3, 1, 2))
    assert torch.equal(found, logits)


@pytest.mark.parametrize(("name", "kwargs", "image_size"), CASES)
@pytest.mark.parametrize("training", [False, True])
def test_outputs_of_every_kind_keep_their_bits_with_all_taps(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int], training: bool
) -> None:
    model = network(name, kwargs, image_size=image_size, drop_path=0.3).train(training)
    images, layers = pictures(*image_size), tuple(describe_network(model).stage)
    torch.manual_seed(5)
    plain = model(images)
    with SimilarityTap(model, layers, "mean"), HeadTap(model, layers), TokenTap(model):
        torch.manual_seed(5)
        tapped = model(images)
    assert torch.equal(plain, tapped)
    assert hooks(model) == 0


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_through_maps_heads_and_tokens_are_those_of_the_unfused_path(fused: bool) -> None:
    model, images = network().double(), pictures().double()
    weight = model.blocks[0].attn.qkv.weight
    with SimilarityTap(model, "last_two", "mean") as maps, HeadTap(model, "last") as heads, TokenTap(model) as tokens:
        if fused:
            model(images)
        else:
            with unfused(model):
                model(images)
        loss = maps.maps().pow(2).sum() + heads.outputs().pow(3).sum() + tokens.tokens().pow(3).sum()
    (found,) = torch.autograd.grad(loss, weight)
    taken = softmaxed(model, images)
    loss = sum(each[:, :, 1:, 1:].mean(2).pow(2).sum() for each in taken[1:])
    passed: list[Tensor] = []
    model.blocks[2].attn.qkv.register_forward_hook(lambda module, inputs, output: passed.append(output))
    features = model.forward_features(images)
    value = passed[0][..., 32:].unflatten(-1, (2, 8)).transpose(1, 2)
    loss = loss + (taken[2].softmax(-1) @ value).pow(3).sum() + features[:, 1:].pow(3).sum()
    (expected,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_images_of_another_size_have_maps_and_tokens_of_their_own_grid(name: str) -> None:
    model = network(name, SMALL | {"dynamic_img_size": True}).double()
    with SimilarityTap(model, "last") as tap, TokenTap(model) as tokens, torch.no_grad():
        for height, width in ((16, 8), (12, 12)):
            images = pictures(height, width).double()
            model(images)
            assert tap.maps().shape == (4, 1, 2, height // 2, width // 2)
            assert tokens.tokens().shape == (4, height // 2, width // 2, 16)
            torch.testing.assert_close(
                tap.maps()[:, 0].flatten(-2), logits_by_hand(model, images, 2), rtol=0, atol=1e-12
            )


def test_pvt_takes_images_of_another_size_too() -> None:
    model = network("pvt_v2_b0", PVT, image_size=(40, 24))
    with SimilarityTap(model, "last", "mean") as tap, torch.no_grad():
        model(pictures(64, 32))
    assert tap.maps().shape == (4, 1, 2, 4, 2)


# Where a hierarchical network has no maps.


def test_blocks_before_the_last_stage_are_refused() -> None:
    for model, last in (
        (network("swin_tiny_patch4_window7_224", SWIN, image_size=(24, 24)), "1 to 2"),
        (network("pvt_v2_b0", PVT, image_size=(40, 24)), "2 to 3"),
    ):
        for tap in (lambda model=model: SimilarityTap(model, "all", "mean"), lambda model=model: HeadTap(model, (0,))):
            with pytest.raises(ValueError, match=f"names block 0.* only blocks {last}, the last stage, have that grid"):
                tap()
        assert hooks(model) == 0


@pytest.mark.parametrize("more", [{}, {"always_partition": True, "window_size": 6}, {"dynamic_img_size": True, "window_size": 6}])  # fmt: skip
def test_swin_whose_last_stage_has_no_single_window_is_refused(more: dict[str, Any]) -> None:
    model = network("swin_tiny_patch4_window7_224", SWIN | more, image_size=(48, 48))
    for method, tap in (("similarity maps", lambda: SimilarityTap(model, "last", "mean")), ("head outputs", lambda: HeadTap(model, "last"))):  # fmt: skip
        with pytest.raises(ValueError, match=f"SwinTransformer, block 2: there are no {method}, .* window_size 6"):
            tap()
    assert hooks(model) == 0
    with TokenTap(model) as tokens:
        model(pictures(48, 48))
    assert tokens.tokens().shape == (4, 6, 6, 16)


@pytest.mark.parametrize(("name", "more"), [("pvt_v2_b2_li", {}), ("pvt_v2_b0", {"sr_ratios": [4, 2, 2]})])
def test_pvt_whose_keys_are_pooled_has_heads_and_tokens_but_no_maps(name: str, more: dict[str, Any]) -> None:
    model = network(name, PVT | more, image_size=(40, 56))
    with pytest.raises(ValueError, match=r"PyramidVisionTransformerV2, block 3: its keys are pooled.*heads or tokens"):
        SimilarityTap(model, "last", "mean")
    with HeadTap(model, "last") as heads, TokenTap(model) as tokens:
        model(pictures(40, 56))
    assert heads.outputs().shape == (4, 1, 2, 12, 8)
    assert tokens.tokens().shape == (4, 3, 4, 16)


# Running as far as a block.


@pytest.mark.parametrize(("name", "kwargs", "image_size"), CASES)
def test_running_to_a_block_gives_its_output_and_fills_the_taps_there(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int]
) -> None:
    model, images = network(name, kwargs, image_size=image_size), pictures(*image_size)
    parts, first = blocks_of(model), describe_network(model).stage.start
    ran: list[int] = []
    outputs: list[Tensor] = []
    handles = [
        part.register_forward_hook(lambda module, inputs, output, number=number: (ran.append(number), outputs.append(output))[2:] or None)
        for number, part in enumerate(parts)
    ]  # fmt: skip
    with SimilarityTap(model, (first,), "mean") as tap, torch.no_grad():
        model(images)
        whole, expected = tap.maps(), outputs[first]
        ran.clear()
        reached = run_to_block(model, images, first)
        assert torch.equal(tap.maps(), whole)
    assert ran == list(range(first + 1))
    assert torch.equal(reached, expected)
    for handle in handles:
        handle.remove()
    assert hooks(model) == 0


@pytest.mark.parametrize("block", [-1, 3])
def test_block_that_there_is_not_cannot_be_run_to(model: VisionTransformer, block: int) -> None:
    with pytest.raises(ValueError, match=f"there is no block {block}; the network's blocks are 0 to 2"):
        run_to_block(model, pictures(), block)


def test_error_on_the_way_to_a_block_is_told_and_leaves_no_hook(model: VisionTransformer) -> None:
    with pytest.raises(AssertionError, match="doesn't match model"):
        run_to_block(model, pictures(14, 14), 1)
    assert hooks(model) == 0
