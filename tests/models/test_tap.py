"""Claims about the tap: it changes nothing, and its maps are the attention logits worked out by hand, in float64."""

from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from support.small_networks import PVT, SMALL, SWIN, hooks, logits_by_hand, network, pictures
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from pipeline.models.tap import HeadTap, SimilarityTap, TokenTap

pytestmark = pytest.mark.usefixtures("either_way")


@pytest.fixture
def tapped(model: VisionTransformer) -> Iterator[SimilarityTap]:
    with SimilarityTap(model, "all") as tap:
        yield tap


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
    model = network(name, SMALL | kwargs, image_size=image_size).double()
    images = pictures(*image_size).double()
    assert model.num_prefix_tokens == prefix
    with SimilarityTap(model, "all") as tap, torch.no_grad():
        model(images)
        maps = tap.maps()
    grid = image_size[0] // 2, image_size[1] // 2
    assert maps.shape == (4, 3, 2, *grid)
    for layer in range(3):
        expected = logits_by_hand(model, images, layer).unflatten(-1, grid)
        torch.testing.assert_close(maps[:, layer], expected, rtol=0, atol=1e-12)


def test_maps_come_in_the_order_of_the_layers(model: VisionTransformer) -> None:
    model, images = model.double(), pictures().double()
    with SimilarityTap(model, (-1, 0)) as tap, torch.no_grad():
        model(images)
        maps = tap.maps()
    assert tap.layers == (0, 2)
    torch.testing.assert_close(maps[:, 0].flatten(-2), logits_by_hand(model, images, 0), rtol=0, atol=1e-12)
    torch.testing.assert_close(maps[:, 1].flatten(-2), logits_by_hand(model, images, 2), rtol=0, atol=1e-12)


def test_patches_fill_the_grid_row_by_row() -> None:
    model = network(kwargs=SMALL | {"depth": 1}, image_size=(8, 12)).double()
    model.pos_embed.data.zero_()  # without positions a patch's logit depends on its content alone
    images = torch.zeros(1, 1, 8, 12, dtype=torch.float64)
    images[0, 0, 2:4, 6:8] = 5.0
    with SimilarityTap(model, "last") as tap, torch.no_grad():
        model(images)
        maps = tap.maps()[0, 0, 0]
    different = (maps - maps[0, 0]).abs() > 1e-9
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
    model, images = model.double(), pictures().double()
    attention = model.blocks[0].attn
    with SimilarityTap(model, (0,)) as tap:
        model(images)
        (found,) = torch.autograd.grad(tap.maps().square().sum(), attention.qkv.weight)
    with torch.no_grad():
        tokens = model.blocks[0].norm1(model._pos_embed(model.patch_embed(images)))
    products = (tokens @ attention.qkv.weight.T + attention.qkv.bias).reshape(4, 37, 3, 2, 8)
    logits = (products[:, 0, None, 0] * products[:, 1:, 1]).sum(-1) / 8**0.5
    (expected,) = torch.autograd.grad(logits.square().sum(), attention.qkv.weight)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_hooks_are_gone_after_the_block(model: VisionTransformer) -> None:
    assert hooks(model) == 0
    with SimilarityTap(model, "all"):
        # A query and a key a block, what was projected where that is read, and the network's beginning and end.
        assert hooks(model) in (3 * 2 + 2, 3 * 3 + 2)
    assert hooks(model) == 0


def test_hooks_are_gone_after_an_error_in_the_block(model: VisionTransformer) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), SimilarityTap(model, "all"):  # noqa: PT012
        # A query and a key a block, what was projected where that is read, and the network's beginning and end.
        assert hooks(model) in (3 * 2 + 2, 3 * 3 + 2)
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
    with pytest.raises(ValueError, match="attention of block 1 is a Identity, which cannot be read"):
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
        with pytest.raises(ValueError, match=f"{has}, which cannot be read"):
            tap(model, "last")
    assert hooks(model) == 0


def test_tokens_that_do_not_fill_the_grid_are_an_error() -> None:
    model = network(kwargs=SMALL | {"patch_drop_rate": 0.5}).train()
    with SimilarityTap(model, "last") as tap, TokenTap(model) as tokens:
        model(pictures())
    for read in (tap.maps, tokens.tokens):
        with pytest.raises(ValueError, match="18 patch tokens do not fill the 6 x 6 grid"):
            read()
