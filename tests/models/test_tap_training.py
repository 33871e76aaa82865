"""Claims about the tap in training: recomputed blocks, what it keeps alive, compiled steps and CUDA graphs."""

import gc
import weakref
from typing import Any

import pytest
import torch
from support.cuda_graphs import captured
from support.small_networks import PVT, SMALL, SWIN, network, pictures, softmaxed
from timm.layers import set_reentrant_ckpt
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pipeline.models.architecture import describe_network, num_heads
from pipeline.models.model_config import SpatialPriorConfig
from pipeline.models.tap import HeadTap, SimilarityTap, TokenTap, run_to_block

pytestmark = pytest.mark.usefixtures("either_way")

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
    model, images = model.double(), pictures().double()
    with SimilarityTap(model, "all", with_cls=True) as tap, SimilarityTap(model, "all") as plain:
        with torch.set_grad_enabled(grad):
            model(images)
        found, maps, expected = tap.cls(), tap.maps(), plain.maps()
        with pytest.raises(RuntimeError, match="made without with_cls"):
            plain.cls()
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)
    entries = torch.stack([logits[:, :, 0, 0] for logits in softmaxed(model, images)], dim=1)
    torch.testing.assert_close(found, entries, rtol=0, atol=1e-12)
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
    assert num_heads(model, anatomy.blocks - 1) == 2


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

        graph, found = captured(gradients)
        images.copy_(2 * images)
        graph.replay()
        for one, other in zip(found, gradients(), strict=True):
            torch.testing.assert_close(one, other)
