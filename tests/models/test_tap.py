"""Claims about the tap: it changes nothing, and its maps are the attention logits worked out by hand."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from networks import PVT, SMALL, SWIN, blocks_of, network, pictures, softmaxed, unfused
from timm.layers import set_reentrant_ckpt
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.anatomy import describe_network, heads_of
from pipeline.models.settings import SpatialPriorConfig
from pipeline.models.tap import HeadTap, SimilarityTap, TokenTap, run_to_block


def logits_by_hand(model: VisionTransformer, images: Tensor, layer: int) -> Tensor:
    """The CLS query's scaled products with all patch keys, (B, A, N), from what enters the attention of a block."""
    entered: list[Tensor] = []
    attention = model.blocks[layer].attn
    handle = attention.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        model(images)
    handle.remove()
    tokens = entered[0]
    batch, count, width = tokens.shape
    heads = attention.num_heads
    products = tokens @ attention.qkv.weight.T + attention.qkv.bias
    query, key, _ = (
        part.reshape(batch, count, heads, width // heads).transpose(1, 2) for part in products.split(width, dim=-1)
    )
    query, key = attention.q_norm(query), attention.k_norm(key)
    attended = query @ key.transpose(-2, -1) / (width // heads) ** 0.5
    return attended[:, :, 0, model.num_prefix_tokens :].detach()


@pytest.fixture
def model() -> VisionTransformer:
    return network()


@pytest.fixture
def tapped(model: VisionTransformer) -> Iterator[SimilarityTap]:
    with SimilarityTap(model, "all") as tap:
        yield tap


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "image_size", "kwargs", "prefix"),
    [
        pytest.param("vit_tiny_patch16_224", (12, 12), {}, 1, id="plain"),
        pytest.param("deit_tiny_distilled_patch16_224", (12, 12), {}, 2, id="distilled"),
        pytest.param("vit_small_patch14_reg4_dinov2", (12, 12), {}, 5, id="registers"),
        pytest.param("vit_tiny_patch16_224", (12, 12), {"qk_norm": True}, 1, id="qk_norm"),
        pytest.param("vit_tiny_patch16_224", (8, 14), {}, 1, id="not square"),
        pytest.param("vit_tiny_patch16_224", (12, 12), {"global_pool": "avg"}, 1, id="mean pooling, CLS kept"),
    ],
)
def test_maps_are_the_logits_worked_out_by_hand(
    name: str, image_size: tuple[int, int], kwargs: dict[str, Any], prefix: int
) -> None:
    model = network(name, SMALL | kwargs, image_size=image_size)
    images = pictures(*image_size)
    assert model.num_prefix_tokens == prefix
    with SimilarityTap(model, "all") as tap, torch.no_grad():
        model(images)
        maps = tap.maps()
    grid = image_size[0] // 2, image_size[1] // 2
    assert maps.shape == (4, 3, 2, *grid)
    for layer in range(3):
        expected = logits_by_hand(model, images, layer).unflatten(-1, grid)
        torch.testing.assert_close(maps[:, layer], expected, rtol=0, atol=1e-5)


def test_maps_come_in_the_order_of_the_layers(model: VisionTransformer) -> None:
    images = pictures()
    with SimilarityTap(model, (-1, 0)) as tap, torch.no_grad():
        model(images)
        maps = tap.maps()
    assert tap.layers == (0, 2)
    torch.testing.assert_close(maps[:, 0].flatten(-2), logits_by_hand(model, images, 0))
    torch.testing.assert_close(maps[:, 1].flatten(-2), logits_by_hand(model, images, 2))


def test_patches_fill_the_grid_row_by_row() -> None:
    model = network(kwargs=SMALL | {"depth": 1}, image_size=(8, 12))
    model.pos_embed.data.zero_()  # without positions a patch's logit depends on its content alone
    images = torch.zeros(1, 1, 8, 12)
    images[0, 0, 2:4, 6:8] = 5.0
    with SimilarityTap(model, "last") as tap, torch.no_grad():
        model(images)
        maps = tap.maps()[0, 0, 0]
    different = (maps - maps[0, 0]).abs() > 1e-4
    assert different.nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("training", [False, True])
def test_network_gives_the_same_bits_with_the_tap_and_without(training: bool) -> None:
    model = network(drop_path=0.3).train(training)
    images = pictures()
    torch.manual_seed(5)
    plain = model(images)
    with SimilarityTap(model, "all"):
        torch.manual_seed(5)
        tapped = model(images)
    assert torch.equal(plain, tapped)


def test_attention_stays_fused(model: VisionTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *given, **named: (calls.append(1), fused(*given, **named))[1]
    )
    with SimilarityTap(model, "all"):
        assert all(block.attn.fused_attn for block in model.blocks)
        model(pictures())
    assert len(calls) == 3


def test_maps_before_any_forward_pass_are_an_error(tapped: SimilarityTap) -> None:
    with pytest.raises(RuntimeError, match="no forward pass has filled the tap"):
        tapped.maps()


def test_maps_after_clearing_are_an_error(model: VisionTransformer, tapped: SimilarityTap) -> None:
    model(pictures())
    tapped.clear()
    with pytest.raises(RuntimeError, match="no forward pass has filled the tap"):
        tapped.maps()
    model(pictures())
    assert tapped.maps().shape == (4, 3, 2, 6, 6)


def test_maps_are_of_the_latest_forward_pass(model: VisionTransformer, tapped: SimilarityTap) -> None:
    model(pictures())
    first = tapped.maps()
    model(pictures(count=2) + 1)
    assert tapped.maps().shape == (2, 3, 2, 6, 6)
    assert not torch.equal(tapped.maps(), first[:2])


def test_maps_lead_gradients_into_the_network(model: VisionTransformer, tapped: SimilarityTap) -> None:
    model(pictures())
    tapped.maps()[:, 2].square().sum().backward()
    for layer in range(3):  # the last block's maps stand on all that comes before them
        assert model.blocks[layer].attn.qkv.weight.grad is not None
        assert model.blocks[layer].attn.qkv.weight.grad.abs().max() > 0
    assert model.patch_embed.proj.weight.grad is not None
    values = model.blocks[2].attn.qkv.weight.grad[32:]
    assert values.abs().max() == 0  # queries and keys make the maps, values do not
    assert model.head.weight.grad is None


def test_gradient_through_the_maps_is_that_of_the_logits_by_hand(model: VisionTransformer) -> None:
    images, attention = pictures(), model.blocks[0].attn
    with SimilarityTap(model, (0,)) as tap:
        model(images)
        (found,) = torch.autograd.grad(tap.maps().square().sum(), attention.qkv.weight)
    with torch.no_grad():
        tokens = model.blocks[0].norm1(model._pos_embed(model.patch_embed(images)))
    products = (tokens @ attention.qkv.weight.T + attention.qkv.bias).reshape(4, 37, 3, 2, 8)
    logits = (products[:, 0, None, 0] * products[:, 1:, 1]).sum(-1) / 8**0.5
    (expected,) = torch.autograd.grad(logits.square().sum(), attention.qkv.weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_hooks_are_gone_after_the_block(model: VisionTransformer) -> None:
    assert hooks(model) == 0
    with SimilarityTap(model, "all"):
        assert hooks(model) == 3 * 2 + 2  # a query and a key a block, and the network's beginning and end
    assert hooks(model) == 0


def test_hooks_are_gone_after_an_error_in_the_block(model: VisionTransformer) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), SimilarityTap(model, "all"):  # noqa: PT012
        assert hooks(model) == 3 * 2 + 2  # a query and a key a block, and the network's beginning and end
        raise RuntimeError("out of memory")
    assert hooks(model) == 0


def test_what_was_collected_stays_readable_after_removal(model: VisionTransformer) -> None:
    with SimilarityTap(model, "last") as tap:
        model(pictures())
    assert tap.maps().shape == (4, 1, 2, 6, 6)


def test_two_taps_read_one_network_side_by_side(model: VisionTransformer) -> None:
    with SimilarityTap(model, "all") as every, SimilarityTap(model, "last") as last:
        model(pictures())
        assert torch.equal(every.maps()[:, 2:], last.maps())


def test_maps_under_autocast_are_float32_and_close_to_the_exact_ones(model: VisionTransformer) -> None:
    images = pictures()
    with SimilarityTap(model, "all") as tap, torch.no_grad():
        model(images)
        exact = tap.maps()
        with torch.autocast("cpu", torch.bfloat16):
            assert model(images).dtype == torch.bfloat16
            maps = tap.maps()
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(maps, maps.bfloat16().float())  # the product itself was not rounded to half precision


def test_maps_of_a_float64_network_are_float64(model: VisionTransformer) -> None:
    with SimilarityTap(model, "last") as tap:
        model.double()(pictures().double())
    assert tap.maps().dtype == torch.float64


def test_cls_query_of_a_network_without_that_token_is_refused() -> None:
    for model in (
        network(kwargs=SMALL | {"class_token": False, "global_pool": "avg"}),
        network("swin_tiny_patch4_window7_224", SWIN, image_size=(24, 24)),
        network("pvt_v2_b0", PVT, image_size=(40, 24)),
    ):
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no CLS token.* query 'mean'"):
            SimilarityTap(model, "last")
        assert hooks(model) == 0


def test_unknown_query_is_refused(model: VisionTransformer) -> None:
    with pytest.raises(ValueError, match="unknown query 'max'; known: cls, mean"):
        SimilarityTap(model, "last", query="max")


@pytest.mark.parametrize("name", ["resnet18", "levit_128s", "coat_tiny", "twins_pcpvt_small", "beit_base_patch16_224"])
def test_networks_of_other_kinds_are_refused_by_all_taps_with_those_that_work(name: str) -> None:
    with torch.device("meta"):
        other = timm.create_model(name)
    for tap in (lambda: SimilarityTap(other, "last", "mean"), lambda: HeadTap(other, "last"), lambda: TokenTap(other)):
        with pytest.raises(ValueError, match=f"{type(other).__name__} has no blocks of patch tokens .* Swin and PVTv2"):
            tap()


def test_layers_that_the_network_does_not_have_are_refused_and_leave_no_hook(model: VisionTransformer) -> None:
    with pytest.raises(ValueError, match="names block 3, but the network's blocks are 0 to 2"):
        SimilarityTap(model, (0, 3))
    with pytest.raises(ValueError, match="'last_four' needs 4 blocks, but the network has 3"):
        SimilarityTap(model, "last_four")
    assert hooks(model) == 0


def test_attention_without_a_tap_is_refused_and_leaves_no_hook(model: VisionTransformer) -> None:
    model.blocks[1].attn = nn.Identity()
    with pytest.raises(ValueError, match="attention of block 1 is a Identity, which has no tap"):
        SimilarityTap(model, "all")
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("name", "kwargs", "has"),
    [
        ("vit_small_patch16_18x2_224", {}, "block 2 is a ParallelThingsBlock"),
        ("vit_tiny_patch16_224", {"attn_layer": "diff"}, "attention of block 2 is a DiffAttention"),
    ],
)
def test_blocks_with_other_attention_are_refused(name: str, kwargs: dict[str, Any], has: str) -> None:
    model = network(name, SMALL | kwargs)
    for tap in (SimilarityTap, HeadTap):
        with pytest.raises(ValueError, match=f"{has}, which has no tap"):
            tap(model, "last")
    assert hooks(model) == 0


def test_tokens_that_do_not_fill_the_grid_are_an_error() -> None:
    model = network(kwargs=SMALL | {"patch_drop_rate": 0.5}).train()
    with SimilarityTap(model, "last") as tap, TokenTap(model) as tokens:
        model(pictures())
    for read in (tap.maps, tokens.tokens):
        with pytest.raises(ValueError, match="18 patch tokens do not fill the 6 x 6 grid"):
            read()


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
    model, images = network(name, kwargs, image_size=image_size, noise=0.03), pictures(*image_size, count=2)
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
            torch.testing.assert_close(tap.maps()[:, index], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "kwargs", "image_size"), CASES)
def test_head_outputs_are_attention_times_values(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int]
) -> None:
    model, images = network(name, kwargs, image_size=image_size, noise=0.03), pictures(*image_size, count=2)
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
        torch.testing.assert_close(tap.outputs()[:, index], expected, rtol=0, atol=1e-5)


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
    model = network(name, SMALL | {"dynamic_img_size": True})
    with SimilarityTap(model, "last") as tap, TokenTap(model) as tokens, torch.no_grad():
        for height, width in ((16, 8), (12, 12)):
            model(pictures(height, width))
            assert tap.maps().shape == (4, 1, 2, height // 2, width // 2)
            assert tokens.tokens().shape == (4, height // 2, width // 2, 16)
            torch.testing.assert_close(
                tap.maps()[:, 0].flatten(-2), logits_by_hand(model, pictures(height, width), 2), rtol=0, atol=1e-5
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
            with pytest.raises(ValueError, match=f"names block 0.* only the last stage's are, blocks {last}"):
                tap()
        assert hooks(model) == 0


@pytest.mark.parametrize("more", [{}, {"always_partition": True, "window_size": 6}, {"dynamic_img_size": True, "window_size": 6}])  # fmt: skip
def test_swin_whose_last_stage_has_no_single_window_is_refused(more: dict[str, Any]) -> None:
    model = network("swin_tiny_patch4_window7_224", SWIN | more, image_size=(48, 48))
    for method, tap in (("similarity maps", lambda: SimilarityTap(model, "last", "mean")), ("head outputs", lambda: HeadTap(model, "last"))):  # fmt: skip
        with pytest.raises(ValueError, match=f"SwinTransformer, block 2: no {method} .* window_size 6"):
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


# Gradient checkpointing, which runs blocks again in the backward pass.


@pytest.mark.parametrize(
    ("name", "kwargs", "image_size"),
    [
        ("vit_tiny_patch16_224", SMALL, (12, 12)),
        ("swin_tiny_patch4_window7_224", SWIN, (24, 24)),
        ("pvt_v2_b0", PVT, (40, 24)),
    ],
)
@pytest.mark.parametrize("early", [False, True], ids=["removed after", "removed before"])
def test_gradients_with_checkpointing_are_those_without(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int], early: bool
) -> None:
    model, images = network(name, kwargs, image_size=image_size).double().train(), pictures(*image_size).double()
    layers = tuple(describe_network(model).stage)

    def gradients(checkpointed: bool) -> list[Tensor]:
        model.set_grad_checkpointing(checkpointed)
        model.zero_grad()
        with SimilarityTap(model, layers, "mean") as maps, HeadTap(model, layers) as heads, TokenTap(model) as tokens:
            loss = model(images).square().sum()
            loss = loss + maps.maps().pow(2).sum() + heads.outputs().pow(3).sum() + tokens.tokens().pow(3).sum()
            if not early:
                loss.backward()
        if early:
            loss.backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    plain, again = gradients(False), gradients(True)
    assert len(plain) == len(again) > 10
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


def test_backward_pass_with_checkpointing_does_not_fill_a_cleared_tap(model: VisionTransformer) -> None:
    model.train().set_grad_checkpointing(True)
    with SimilarityTap(model, "all") as tap, HeadTap(model, "all") as heads:
        loss = model(pictures()).sum() + tap.maps().square().sum() + heads.outputs().square().sum()
        tap.clear()
        heads.clear()
        loss.backward()
        for read in (tap.maps, heads.outputs):
            with pytest.raises(RuntimeError, match="no forward pass has filled the tap"):
                read()


def test_reentrant_checkpointing_which_cuts_gradients_off_is_refused(model: VisionTransformer) -> None:
    model.train().set_grad_checkpointing(True)
    set_reentrant_ckpt(True)
    try:
        with SimilarityTap(model, "all"), pytest.raises(RuntimeError, match="use timm's default, use_reentrant=False"):
            model(pictures().requires_grad_())
    finally:
        set_reentrant_ckpt(False)
    with SimilarityTap(model, "all") as tap:
        model(pictures())
    assert tap.maps().requires_grad


# What is kept, and for how long.


def test_without_gradients_no_queries_and_keys_are_kept(model: VisionTransformer) -> None:
    made: list[Any] = []
    model.blocks[0].attn.qkv.register_forward_hook(lambda module, inputs, output: made.append(weakref.ref(output)))
    with SimilarityTap(model, "all") as tap:
        with torch.no_grad():
            model(pictures())
        gc.collect()
        assert made[0]() is None
        assert tap.maps().shape == (4, 3, 2, 6, 6)


def test_pass_that_fails_leaves_nothing_of_the_one_before(model: VisionTransformer) -> None:
    with SimilarityTap(model, "all") as tap:
        model(pictures())
        handle = model.blocks[1].register_forward_pre_hook(lambda module, inputs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(pictures())
        handle.remove()
        with pytest.raises(RuntimeError, match="no forward pass has filled the tap"):
            tap.maps()
        model(pictures())
        assert tap.maps().shape == (4, 3, 2, 6, 6)


def test_queries_that_are_large_do_not_drown_their_mean_in_half_precision() -> None:
    model = network().bfloat16()
    with SimilarityTap(model, "last", "mean") as tap, torch.no_grad():
        model(pictures().bfloat16())
    assert tap.maps().dtype == torch.float32
    assert not torch.equal(tap.maps(), tap.maps().bfloat16().float())


def test_taps_work_on_networks_without_weights() -> None:
    with torch.device("meta"), torch.no_grad():
        model = network(spatial_prior=SpatialPriorConfig(2))
        with SimilarityTap(model, "all", "mean") as maps, HeadTap(model, "all") as heads, TokenTap(model) as tokens:
            model(torch.empty(2, 1, 12, 12))
    assert maps.maps().shape == (2, 3, 2, 6, 6)
    assert heads.outputs().shape == (2, 3, 2, 37, 8)
    assert tokens.tokens().shape == (2, 6, 6, 16)


def test_backward_pass_after_a_pass_that_stopped_at_a_block_does_not_fill_a_tap(model: VisionTransformer) -> None:
    model.train().set_grad_checkpointing(True)
    with SimilarityTap(model, "all") as tap:
        loss = model(pictures()).sum()
        run_to_block(model, pictures(), 0)  # as a pass that fails, it has no end of its own
        tap.clear()
        loss.backward()
        with pytest.raises(RuntimeError, match="no forward pass has filled the tap"):
            tap.maps()


@pytest.mark.parametrize("grad", [False, True])
def test_cls_token_with_itself_is_given_beside_the_same_maps(model: VisionTransformer, grad: bool) -> None:
    images = pictures()
    with SimilarityTap(model, "all", with_cls=True) as tap, SimilarityTap(model, "all") as plain:
        with torch.set_grad_enabled(grad):
            model(images)
        found, maps, expected = tap.cls(), tap.maps(), plain.maps()
        with pytest.raises(RuntimeError, match="made without with_cls"):
            plain.cls()
    torch.testing.assert_close(maps, expected)
    entries = torch.stack([logits[:, :, 0, 0] for logits in softmaxed(model, images)], dim=1)
    torch.testing.assert_close(found, entries, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="goes with query 'cls', not 'mean'"):
        SimilarityTap(model, "all", "mean", with_cls=True)


@pytest.mark.parametrize(
    ("name", "kwargs", "image_size", "width"),
    [
        ("vit_tiny_patch16_224", SMALL, (12, 8), 16),
        ("swin_tiny_patch4_window7_224", SWIN, (24, 24), 16),
        ("pvt_v2_b0", PVT, (40, 24), 16),
    ],
)
def test_anatomy_says_what_images_a_network_takes_and_how_wide_its_tokens_are(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int], width: int
) -> None:
    model = network(name, kwargs, image_size=image_size)
    anatomy = describe_network(model)
    assert (anatomy.inputs, anatomy.width) == ((1, *image_size), width)
    with TokenTap(model) as tap:
        model(pictures(*image_size))
        assert tap.tokens().shape[-1] == anatomy.width
    assert heads_of(model, anatomy.blocks - 1) == 2


# Compiling.


@pytest.mark.parametrize("query", ["cls", "mean"])
@pytest.mark.parametrize("alone", [False, True], ids=["with the loss", "the network alone"])
def test_tapped_network_is_compiled_without_a_graph_break_to_the_same_gradients(
    model: VisionTransformer, query: str, alone: bool
) -> None:
    model, inputs = model.double().train(), pictures().double()
    with SimilarityTap(model, "all", query) as tap:

        def loss(images: Tensor) -> Tensor:
            return model(images).square().sum() + tap.maps().pow(3).sum()

        expected = torch.autograd.grad(loss(inputs), list(model.parameters()))
        torch._dynamo.reset()
        if alone:
            model.compile(fullgraph=True, backend="aot_eager")
            found = torch.autograd.grad(loss(inputs), list(model.parameters()))
        else:
            whole = torch.compile(loss, fullgraph=True, backend="aot_eager")
            found = torch.autograd.grad(whole(inputs), list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
def test_tapped_step_is_captured_in_a_cuda_graph(model: VisionTransformer) -> None:
    model.cuda().train()
    images = pictures().cuda()
    parameters = list(model.parameters())
    with SimilarityTap(model, "all") as tap:

        def gradients() -> tuple[Tensor, ...]:
            loss = model(images).square().sum() + tap.maps().pow(3).sum()
            tap.clear()
            return torch.autograd.grad(loss, parameters)

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                gradients()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = gradients()
        images.copy_(2 * images)
        graph.replay()
        for one, other in zip(captured, gradients(), strict=True):
            torch.testing.assert_close(one, other)
