"""Claims about the networks that a name, keywords and an init give."""

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from support.small_networks import PVT, SWIN
from torch import nn

from pipeline.models.architecture import describe_network
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig, SpatialPriorConfig

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
        (
            ModelConfig("vit_tiny_patch16_224", SMALL, "timm", 0.0, "nosn"),
            "last_block: unknown last_block 'nosn'; known: standard, no_skip",
        ),
        (config({"dept": 3}), "knows no keyword 'dept'"),
        (config({"img_size": 32, "in_chans": 3}), "img_size, in_chans cannot be given as keywords"),
        (config({"drop_path_rate": 0.1}), "drop_path_rate cannot be given as keywords"),
        (config({"features_only": 1}), "^kwargs: features_only cannot be given as keywords"),
        (config({"num_heads": 3}), "divisible"),
        (config({"num_heads": 0}), "cannot be built"),
        *(
            (
                config({"patch_size": size}),
                r"^kwargs: given patch_size .*; allowed: a whole number above 0, or a list of",
            )
            for size in (0, -2, 2.0, "2", True, None, [3], [3, 4, 2], [3, 0], [])
        ),
        (config({"patch_size": 2, "pos_embed": "rope", "depth": 1}), "cannot be built"),
        (config({"patch_size": 16}), "12 x 12 image gives a 0 x 0 grid of patches and 2 blocks"),
        (config({"depth": 0}), "6 x 6 grid of patches and 0 blocks"),
        (config({"depth": -1}), "cannot be built"),
        (config({"class_token": False}), "Token pooling needs the class token"),
        (
            config(name="beit_base_patch16_224"),
            r"is a Beit; supported are Vision Transformers \(ViT, DeiT, DINOv2, ...\), Swin and PVTv2",
        ),
        (ModelConfig("resnet18", {}, "xavier", 0.0), "knows no keyword 'img_size'"),
    ],
)
def test_network_that_cannot_be_is_refused_with_the_reason(given: ModelConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(given)


def test_keyword_that_names_an_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be built"):
        build(config({"norm_layer": "nope"}))


def test_swin_and_pvt_are_built_from_lists_as_yaml_has_them() -> None:
    swin = build(ModelConfig("swin_tiny_patch4_window7_224", SWIN, "xavier", 0.0), image_size=(24, 24))
    assert [len(stage.blocks) for stage in swin.layers] == [1, 2]
    assert swin(torch.zeros(2, 1, 24, 24)).shape == (2, 3)
    pvt = build(ModelConfig("pvt_v2_b0", PVT, "xavier", 0.0), image_size=(40, 24))
    assert [len(stage.blocks) for stage in pvt.stages] == [1, 1, 2]
    assert pvt(torch.zeros(2, 1, 40, 24)).shape == (2, 3)
    for model in (swin, pvt):
        assert all(module.bias.abs().max() == 0 for module in model.modules() if isinstance(module, nn.Linear) and module.bias is not None)  # fmt: skip
        assert model.patch_embed.proj.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_wrong_keyword_of_a_network_that_takes_any_size_is_told() -> None:
    with pytest.raises(ValueError, match=r"^kwargs: pvt_v2_b0 cannot be built .* it knows no keyword 'dept'"):
        build(ModelConfig("pvt_v2_b0", {"dept": 3}, "xavier", 0.0))


def test_settings_of_earlier_checkpoints_are_those_of_a_standard_network() -> None:
    earlier = {"name": "vit_tiny_patch16_224", "kwargs": SMALL, "init": "xavier", "drop_path": 0.0}
    assert ModelConfig(**earlier) == config()
    assert (ModelConfig(**earlier).last_block, ModelConfig(**earlier).spatial_prior) == (
        "standard",
        SpatialPriorConfig(),
    )


def test_settings_survive_a_sidecar() -> None:
    given = ModelConfig("pvt_v2_b0", PVT, "timm", 0.1, "no_skip", SpatialPriorConfig(2, 7, True))
    read = ModelConfig(**json.loads(json.dumps(asdict(given))))
    assert read == given
    assert read.spatial_prior.hidden == 7


# What is said of a network.


@pytest.mark.parametrize(
    ("name", "kwargs", "image_size", "said"),
    [
        ("vit_tiny_patch16_224", SMALL, (12, 8), ("vit", 2, (6, 4), (2, 2), 1, True, range(2))),
        (
            "vit_tiny_patch16_224",
            SMALL | {"patch_size": (3, 4)},
            (12, 8),
            ("vit", 2, (4, 2), (3, 4), 1, True, range(2)),
        ),
        ("deit_tiny_distilled_patch16_224", SMALL, (12, 12), ("vit", 2, (6, 6), (2, 2), 2, True, range(2))),
        ("vit_small_patch14_reg4_dinov2", SMALL, (12, 12), ("vit", 2, (6, 6), (2, 2), 5, True, range(2))),
        ("vit_base_patch16_gap_224", SMALL, (12, 12), ("vit", 2, (6, 6), (2, 2), 0, False, range(2))),
        ("swin_tiny_patch4_window7_224", {}, (224, 224), ("swin", 12, (7, 7), (4, 4), 0, False, range(10, 12))),
        ("swin_tiny_patch4_window7_224", SWIN, (40, 28), ("swin", 3, (5, 4), (4, 4), 0, False, range(1, 3))),
        ("pvt_v2_b0", {}, (224, 224), ("pvt", 8, (7, 7), (1, 1), 0, False, range(6, 8))),
        ("pvt_v2_b0", PVT, (41, 25), ("pvt", 4, (3, 2), (1, 1), 0, False, range(2, 4))),
    ],
)
def test_anatomy_is_that_of_the_network(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int], said: tuple[Any, ...]
) -> None:
    with torch.device("meta"):
        model = build(ModelConfig(name, kwargs, "timm", 0.0), image_size=image_size)
        features = model.forward_features(torch.zeros(1, 1, *image_size))
    found = describe_network(model)
    assert (found.kind, found.blocks, found.grid, found.patch, found.prefix, found.has_cls, found.stage) == said
    assert found.query == ("cls" if found.has_cls else "mean")
    patches = {"vit": features.shape[1] - found.prefix, "swin": features.shape[1:3], "pvt": features.shape[2:]}[
        found.kind
    ]
    assert patches == (found.grid[0] * found.grid[1] if found.kind == "vit" else found.grid)


def test_pvt_that_timm_itself_made_is_described_at_the_size_of_its_weights() -> None:
    import timm

    with torch.device("meta"):
        assert describe_network(timm.create_model("pvt_v2_b0")).grid == (7, 7)


def test_layers_of_a_hierarchical_network_are_counted_through_all_stages() -> None:
    with torch.device("meta"):
        anatomy = describe_network(build(ModelConfig("swin_tiny_patch4_window7_224", {}, "timm", 0.0), image_size=(224, 224)))  # fmt: skip
    assert anatomy.resolve("last_two") == (10, 11)
    assert anatomy.resolve((-2,)) == (10,)
    with pytest.raises(ValueError, match=r"block 9, whose tokens are not the final 7 x 7 grid; .* blocks 10 to 11"):
        anatomy.resolve("last_three")
    with pytest.raises(ValueError, match="the network's blocks are 0 to 11"):
        anatomy.resolve((12,))


def test_network_without_a_projection_of_patches_has_no_xavier_start() -> None:
    with torch.device("meta"):
        given = {"num_classes": 3, "image_size": (224, 224), "channels": 3}
        with pytest.raises(
            ValueError, match=r"^init: vit_base_mci_224 has no convolution that makes patches; take timm"
        ):
            build_model(ModelConfig("vit_base_mci_224", {}, "xavier", 0.0), **given)
        build_model(ModelConfig("vit_base_mci_224", {}, "timm", 0.0), **given)
