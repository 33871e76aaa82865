"""Claims about the last block without skip: the equations, which weights it takes, and who has none."""

from typing import Any

import pytest
import torch
from support.small_networks import PVT, SMALL, SWIN, network, pictures
from timm.layers import DropPath
from torch import Tensor

from pipeline.models.tap import HeadTap, SimilarityTap


def last_input(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """What enters and what leaves the last block."""
    passed: list[tuple[Tensor, Tensor]] = []
    handle = model.blocks[-1].register_forward_hook(lambda module, inputs, output: passed.append((inputs[0], output)))
    model(images)
    handle.remove()
    return passed[0]


def equations(block: Any, tokens: Tensor) -> Tensor:
    """x = MSA(LN1(x)); x = x + MLP(x), spelled out from the weights alone."""
    weights = dict(block.state_dict())
    width = tokens.shape[-1]
    centred = tokens - tokens.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    normed = normed * weights["norm1.weight"] + weights["norm1.bias"]
    products = normed @ weights["attn.qkv.weight"].T + weights["attn.qkv.bias"]
    heads, size = [], width // 2
    for head in range(2):
        query, key, value = (products[..., part * width + head * size :][..., :size] for part in range(3))
        heads.append((query @ key.transpose(-2, -1) / size**0.5).softmax(-1) @ value)
    tokens = torch.cat(heads, -1) @ weights["attn.proj.weight"].T + weights["attn.proj.bias"]
    inside = tokens @ weights["mlp.fc1.weight"].T + weights["mlp.fc1.bias"]
    inside = inside * 0.5 * (1 + torch.erf(inside / 2**0.5))
    branch = inside @ weights["mlp.fc2.weight"].T + weights["mlp.fc2.bias"]
    return tokens + branch * weights.get("ls2.gamma", 1.0)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("vit_tiny_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_small_patch14_reg4_dinov2", {}),
        ("vit_base_patch16_gap_224", {"depth": 1}),
    ],
)
def test_last_block_is_what_the_equations_say(name: str, kwargs: dict[str, Any]) -> None:
    model = network(name, SMALL | kwargs, last_block="no_skip").double()
    entered, left = last_input(model, pictures().double())
    torch.testing.assert_close(left, equations(model.blocks[-1], entered), rtol=1e-10, atol=1e-10)
    if "dinov2" in name:
        assert "ls2.gamma" in model.blocks[-1].state_dict()
        assert "ls1.gamma" not in model.blocks[-1].state_dict()
        assert "ls1.gamma" in model.blocks[-2].state_dict()


def test_gradients_are_those_of_the_equations() -> None:
    model = network(last_block="no_skip").double()
    entered, left = last_input(model, pictures().double())
    found = torch.autograd.grad(left.pow(2).sum(), entered, retain_graph=True)[0]
    again = entered.detach().requires_grad_()
    expected = torch.autograd.grad(equations(model.blocks[-1], again).pow(2).sum(), again)[0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_all_other_blocks_and_the_final_norm_stay() -> None:
    plain, changed = network(), network(last_block="no_skip")
    changed.load_state_dict(plain.state_dict(), strict=False)
    images = pictures()
    assert torch.equal(last_input(plain, images)[0], last_input(changed, images)[0])
    assert not torch.equal(plain(images), changed(images))
    _, left = last_input(changed, images)
    assert torch.equal(changed(images), changed.head(changed.norm(left)[:, 0]))


def test_weights_of_the_standard_network_load_and_only_the_second_norm_stays_unused() -> None:
    for name, unused in (("vit_tiny_patch16_224", {"norm2.weight", "norm2.bias"}), ("vit_small_patch14_reg4_dinov2", {"norm2.weight", "norm2.bias", "ls1.gamma"})):  # fmt: skip
        plain, changed = network(name), network(name, last_block="no_skip")
        missing, unexpected = changed.load_state_dict(plain.state_dict(), strict=False)
        assert missing == []
        assert set(unexpected) == {f"blocks.2.{each}" for each in unused}
        loaded = changed.state_dict()
        assert all(torch.equal(loaded[key], plain.state_dict()[key]) for key in loaded)


def test_same_seed_gives_the_weights_of_the_standard_network() -> None:
    plain, changed = network(noise=0.0).state_dict(), network(noise=0.0, last_block="no_skip").state_dict()
    assert set(plain) - set(changed) == {"blocks.2.norm2.weight", "blocks.2.norm2.bias"}
    assert all(torch.equal(changed[key], plain[key]) for key in changed)


def test_stochastic_depth_of_the_last_block_drops_its_mlp_and_never_its_attention() -> None:
    model = network(drop_path=0.9, last_block="no_skip").double().train()
    block = model.blocks[-1]
    (drop,) = [module for module in block.modules() if isinstance(module, DropPath)]
    tokens = torch.randn(200, 5, 16, dtype=torch.float64)
    torch.manual_seed(0)
    left = block(tokens)
    attended = block.attn(block.norm1(tokens))
    dropped = (left == attended).flatten(1).all(1)
    assert 150 < dropped.sum() < 200
    scaled = attended + block.mlp(attended) / (1 - drop.drop_prob)
    torch.testing.assert_close(left[~dropped], scaled[~dropped], rtol=1e-12, atol=1e-12)


def test_taps_read_the_last_block_without_skip() -> None:
    model, images = network(last_block="no_skip"), pictures()
    plain = network()
    plain.load_state_dict(model.state_dict(), strict=False)
    with SimilarityTap(model, "last") as maps, HeadTap(model, "last") as heads:
        model(images)
    with SimilarityTap(plain, "last") as others, HeadTap(plain, "last") as other_heads:
        plain(images)
    assert torch.equal(maps.maps(), others.maps())
    assert torch.equal(heads.outputs(), other_heads.outputs())


def test_checkpointed_network_without_skip_has_the_same_gradients() -> None:
    model, images = network(last_block="no_skip").double().train(), pictures().double()
    model(images).sum().backward()
    expected = model.blocks[0].attn.qkv.weight.grad.clone()
    model.zero_grad()
    model.set_grad_checkpointing(True)
    model(images).sum().backward()
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight.grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("swin_tiny_patch4_window7_224", SWIN, "no_skip is for Vision Transformers, and this is a SwinTransformer"),
        ("pvt_v2_b0", PVT, "no_skip is for Vision Transformers, and this is a PyramidVisionTransformerV2"),
        ("vit_small_patch16_18x2_224", SMALL, "the last one here is a ParallelThingsBlock; take standard"),
        ("vit_base_patch16_rpn_224", SMALL, "the last one here is a ResPostBlock; take standard"),
    ],
)
def test_networks_with_other_last_blocks_are_refused(name: str, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^last_block: {name}: .*{said}"):
        network(name, kwargs, image_size=(24, 24), last_block="no_skip")
