"""Claims about the networks that a name, keywords and an init give."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models.build import build_model
from pipeline.models.settings import ModelConfig

SMALL = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}


def config(
    kwargs: dict[str, Any] | None = None,
    *,
    name: str = "vit_tiny_patch16_224",
    init: str = "xavier",
    drop_path: float = 0.0,
) -> ModelConfig:
    return ModelConfig(name, {**SMALL, **(kwargs or {})}, init, drop_path)


def build(
    given: ModelConfig, *, image_size: tuple[int, int] = (12, 12), num_classes: int = 3, channels: int = 1
) -> nn.Module:
    return build_model(given, num_classes=num_classes, image_size=image_size, channels=channels)


def test_network_has_the_size_that_the_keywords_say() -> None:
    model = build_model(config(), num_classes=7, image_size=(12, 8), channels=3)
    assert model.patch_embed.grid_size == (6, 4)
    assert len(model.blocks) == 2
    assert model.embed_dim == 16
    assert model(torch.zeros(5, 3, 12, 8)).shape == (5, 7)


def test_weights_depend_on_the_global_stream_alone() -> None:
    torch.manual_seed(3)
    first = build(config()).state_dict()
    torch.manual_seed(3)
    second = build(config()).state_dict()
    torch.manual_seed(4)
    other = build(config()).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_xavier_spreads_linear_layers_by_their_size_and_zeroes_their_bias() -> None:
    model = build_model(config(), num_classes=3, image_size=(12, 12), channels=1)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert 0.8 * bound < module.weight.abs().max() <= bound, name
            assert module.bias.abs().max() == 0, name


def test_xavier_draws_the_patch_embedding_with_deviation_two_hundredths() -> None:
    model = build_model(config({"embed_dim": 64}), num_classes=3, image_size=(12, 12), channels=3)
    projection = model.patch_embed.proj
    assert isinstance(projection, nn.Conv2d)
    assert projection.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert projection.bias is not None
    assert projection.bias.abs().max() == 0


def test_init_timm_keeps_the_weights_that_timm_draws() -> None:
    import timm

    torch.manual_seed(0)
    ours = build(config(init="timm")).state_dict()
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=12, in_chans=1, **SMALL).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    torch.manual_seed(0)
    xavier = build(config()).state_dict()
    assert not torch.equal(xavier["blocks.0.mlp.fc1.weight"], ours["blocks.0.mlp.fc1.weight"])


def test_drop_path_rises_from_0_to_its_value_in_the_last_block() -> None:
    model = build_model(config({"depth": 3}, drop_path=0.2), num_classes=3, image_size=(12, 12), channels=1)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (config(name="vit_tiny_patch16_225"), "no model 'vit_tiny_patch16_225'; did you mean vit_tiny_patch16_224"),
        (config(name="qqqqqqqq"), "no model 'qqqqqqqq'$"),
        (config(init="zeros"), "unknown init 'zeros'; known: xavier, timm"),
        (config({"dept": 3}), "knows no keyword 'dept'"),
        (config({"img_size": 32, "in_chans": 3}), "img_size, in_chans cannot be given as keywords"),
        (config({"drop_path_rate": 0.1}), "drop_path_rate cannot be given as keywords"),
        (config({"num_heads": 3}), "divisible"),
        (config({"num_heads": 0}), "cannot be built"),
        (config({"patch_size": 0}), "cannot be built"),
        (config({"patch_size": 16}), "12 x 12 image gives a 0 x 0 grid of patches and 2 blocks"),
        (config({"depth": 0}), "6 x 6 grid of patches and 0 blocks"),
        (config({"depth": -1}), "cannot be built"),
        (config({"class_token": False}), "Token pooling needs the class token"),
        (config(name="beit_base_patch16_224"), "is a Beit, not a plain Vision Transformer"),
        (ModelConfig("resnet18", {}, "xavier", 0.0), "knows no keyword 'img_size'"),
    ],
)
def test_network_that_cannot_be_is_refused_with_the_reason(given: ModelConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(given)


def test_keyword_that_names_an_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be built"):
        build(config({"norm_layer": "nope"}))
