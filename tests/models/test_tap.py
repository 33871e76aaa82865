"""Claims about the tap: it changes nothing, and its maps are the attention logits worked out by hand."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.build import build_model
from pipeline.models.settings import ModelConfig
from pipeline.models.tap import SimilarityTap

SMALL = {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2}


def network(
    name: str = "vit_tiny_patch16_224",
    *,
    image_size: tuple[int, int] = (12, 12),
    drop_path: float = 0.0,
    **kwargs: Any,
) -> VisionTransformer:
    torch.manual_seed(0)
    config = ModelConfig(name, SMALL | kwargs, "xavier", drop_path)
    model = build_model(config, num_classes=3, image_size=image_size, channels=1).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # fresh biases, norms and scales would hide mistakes
    return model


def pictures(height: int = 12, width: int = 12, *, count: int = 4) -> Tensor:
    return torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(1))


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
    model = network(name, image_size=image_size, **kwargs)
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
    model = network(image_size=(8, 12), depth=1)
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
        assert hooks(model) == 6
    assert hooks(model) == 0


def test_hooks_are_gone_after_an_error_in_the_block(model: VisionTransformer) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), SimilarityTap(model, "all"):  # noqa: PT012
        assert hooks(model) == 6
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


def test_network_without_a_cls_token_is_refused() -> None:
    pooled = network(class_token=False, global_pool="avg")
    with pytest.raises(ValueError, match="has no CLS token"):
        SimilarityTap(pooled, "last")


@pytest.mark.parametrize("part", ["blocks", "patch_embed"])
def test_what_is_no_vision_transformer_is_refused(model: VisionTransformer, part: str) -> None:
    delattr(model, part)
    with pytest.raises(ValueError, match="VisionTransformer has no blocks of patch tokens"):
        SimilarityTap(model, "last")


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


def test_blocks_that_run_in_parallel_are_refused() -> None:
    with pytest.raises(ValueError, match="has no tap"):
        SimilarityTap(network("vit_small_patch16_18x2_224"), "last")


def test_tokens_that_do_not_fill_the_grid_are_an_error() -> None:
    model = network(dynamic_img_size=True)
    with SimilarityTap(model, "last") as tap:
        model(pictures(16, 16))
        with pytest.raises(ValueError, match="64 patch tokens do not fill the 6 x 6 grid"):
            tap.maps()
