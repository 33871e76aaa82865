"""Claims about weights that networks begin from: read without running anything, adapted as timm does, or refused."""

import os
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from support.small_networks import PVT, SMALL, SWIN, pictures
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor

from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig, SpatialPriorConfig, Weights
from pipeline.models.pretrained import adapt_weights
from pipeline.models.source_network import fetch_timm, load_source
from pipeline.models.weights import read_weights

VIT = "vit_tiny_patch16_224"


def built(
    name: str = VIT,
    kwargs: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    classes: int = 3,
    side: int = 12,
    channels: int = 1,
    **settings: Any,
) -> Any:
    torch.manual_seed(seed)
    config = ModelConfig(
        name, SMALL if kwargs is None else kwargs, "xavier" if name == VIT else "timm", 0.0, **settings
    )
    return build_model(config, num_classes=classes, image_size=(side, side), channels=channels).eval()


def state(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def begun(model: Any, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    fit = adapt_weights(model, tensors)
    fit.load(model)
    return fit.notes


# Files.


class Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, kind: str, suffix: str) -> None:
    file, content = tmp_path / f"mine{suffix}", {"model": Malicious(tmp_path / "ran")}
    if kind == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ValueError, match=r"could run code of whoever made the file.*safetensors"):
        read_weights(file)
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False) if kind != "pickle" else pickle.loads(file.read_bytes())
    assert (tmp_path / "ran").exists(), "the file was harmless, and the test worthless"


def test_object_that_is_no_tensor_is_refused_by_its_name(tmp_path: Path) -> None:
    import argparse

    torch.save({"model": state(built()), "args": argparse.Namespace()}, tmp_path / "mine.pth")
    with pytest.raises(ValueError, match=r"holds argparse\.Namespace beside tensors"):
        read_weights(tmp_path / "mine.pth")


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pth"])
@pytest.mark.parametrize("left", [0, 300, -10])
def test_file_that_is_cut_off_is_said_to_be_broken(tmp_path: Path, name: str, left: int) -> None:
    file = tmp_path / name
    save_file(state(built()), file) if name.endswith("s") else torch.save(state(built()), file)
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ValueError, match="is a broken or unfinished file of weights"):
        read_weights(file)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no file of weights; needed: .safetensors, .pt, .pth, .bin"):
        read_weights(tmp_path / "mine.onnx")
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        read_weights(tmp_path / "mine.pth")
    for content, said in (({"epoch": 3}, "epoch is no tensor"), ([1], "holds a list"), ({}, "holds no tensors")):
        torch.save(content, tmp_path / "mine.pth")
        with pytest.raises(ValueError, match=said):
            read_weights(tmp_path / "mine.pth")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"model": tensors, "epoch": 3},
        lambda tensors: {"state_dict": {f"module.{key}": each for key, each in tensors.items()}},
        lambda tensors: {"model": {"state_dict": {f"_orig_mod.module.{key}": each for key, each in tensors.items()}}},
        lambda tensors: {"model_ema": tensors, "model": {key: 0 * each for key, each in tensors.items()}},
    ],
)
def test_wrappers_of_training_scripts_are_taken_off(tmp_path: Path, wrap: Any) -> None:
    tensors = state(built())
    torch.save(wrap(tensors), tmp_path / "mine.pth")
    found = read_weights(tmp_path / "mine.pth")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


# Fitting.


@pytest.mark.parametrize(
    ("name", "kwargs", "side"), [(VIT, SMALL, 12), ("swin_tiny_patch4_window7_224", SWIN, 24), ("pvt_v2_b0", PVT, 24)]
)
def test_network_with_weights_answers_at_first_as_the_one_that_they_are_of(
    name: str, kwargs: dict[str, Any], side: int
) -> None:
    source, network = built(name, kwargs, side=side), built(name, kwargs, side=side, seed=1)
    images = pictures(side, side)
    with torch.no_grad():
        assert not torch.equal(network(images), source(images))
        assert begun(network, state(source)) == ()
        assert torch.equal(network(images), source(images))


def test_head_for_other_classes_stays_fresh_and_so_does_one_that_the_weights_lack() -> None:
    source = state(built())
    for tensors, said in (
        (source, "the weights had 3"),
        ({k: v for k, v in source.items() if "head" not in k}, "the weights had none"),
    ):
        network, fresh = built(classes=10, seed=1), built(classes=10, seed=1)
        assert begun(network, tensors) == (f"classifier not pretrained (10 classes, {said})",)
        assert torch.equal(network.head.weight, fresh.head.weight)
        assert torch.equal(network.blocks[0].attn.qkv.weight, source["blocks.0.attn.qkv.weight"])


def test_both_heads_of_a_distilled_network_stay_fresh() -> None:
    name = "deit_tiny_distilled_patch16_224"
    network = built(name, SMALL, classes=10, seed=1)
    assert begun(network, state(built(name, SMALL))) == ("classifier not pretrained (10 classes, the weights had 3)",)
    assert len(network.head_dist.weight) == 10


@pytest.mark.parametrize("name", [VIT, "deit_tiny_distilled_patch16_224"])
def test_position_embeddings_are_resized_as_timm_does(name: str) -> None:
    source, network = built(name, SMALL), built(name, SMALL, side=16, seed=1)
    assert begun(network, state(source)) == ("position embeddings resized from 6 x 6 to 8 x 8",)
    expected = resample_abs_pos_embed(source.pos_embed, new_size=[8, 8], num_prefix_tokens=source.num_prefix_tokens)
    assert torch.equal(network.pos_embed, expected)


def test_position_embeddings_of_patches_alone_are_resized_too() -> None:
    kwargs = SMALL | {"no_embed_class": True, "reg_tokens": 2}
    source, network = built(kwargs=kwargs), built(kwargs=kwargs, side=16, seed=1)
    begun(network, state(source))
    assert torch.equal(
        network.pos_embed, resample_abs_pos_embed(source.pos_embed, new_size=[8, 8], num_prefix_tokens=0)
    )


def test_patch_kernels_are_resized() -> None:
    source, network = built(side=12), built(kwargs=SMALL | {"patch_size": 4}, side=24, seed=1)
    assert begun(network, state(source)) == ("patch kernels resized from 2 x 2 to 4 x 4 pixels",)
    assert torch.equal(network.pos_embed, source.pos_embed)


@pytest.mark.parametrize(("theirs", "ours"), [(3, 1), (1, 3), (3, 4)])
def test_input_channels_are_adapted_as_timm_does(theirs: int, ours: int) -> None:
    source, network = built(channels=theirs), built(channels=ours, seed=1)
    assert begun(network, state(source)) == (f"input channels adapted from {theirs} to {ours}",)
    expected = adapt_input_conv(ours, source.patch_embed.proj.weight, base_chans=theirs)
    assert torch.equal(network.patch_embed.proj.weight, expected)


def test_relative_position_biases_of_swin_are_resized() -> None:
    source = built("swin_tiny_patch4_window7_224", SWIN, side=24)
    network = built("swin_tiny_patch4_window7_224", SWIN | {"window_size": 2}, side=16, seed=1)
    assert begun(network, state(source)) == ("relative position biases resized",)


def test_plain_weights_load_into_a_last_block_without_skip() -> None:
    source, network = (
        built(kwargs=SMALL | {"init_values": 0.1}),
        built(kwargs=SMALL | {"init_values": 0.1}, seed=1, last_block="no_skip"),
    )
    begun(network, state(source))
    assert torch.equal(network.blocks[-1].attn.qkv.weight, source.blocks[-1].attn.qkv.weight)


def test_weights_without_skip_are_refused_by_a_standard_network_with_the_keys_and_what_to_set() -> None:
    tensors = state(built(last_block="no_skip"))
    with pytest.raises(ValueError, match=r"missing blocks.2.norm2.weight, blocks.2.norm2.bias. .*last_block: no_skip"):
        adapt_weights(built(seed=1), tensors)


def test_plain_weights_load_beside_a_spatial_prior_which_stays_fresh() -> None:
    prior = SpatialPriorConfig(blocks=2, positional_conv=True)
    source, network, fresh = built(), built(seed=1, spatial_prior=prior), built(seed=1, spatial_prior=prior)
    begun(network, state(source))
    assert torch.equal(network.blocks[0].attn.prior.inner.weight, fresh.blocks[0].attn.prior.inner.weight)
    assert torch.equal(network.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    with pytest.raises(ValueError, match=r"unexpected blocks.0.attn.prior\..* and \d+ more.*set model.spatial_prior"):
        adapt_weights(built(), state(network))


def test_prior_that_has_been_learnt_goes_on() -> None:
    prior = SpatialPriorConfig(blocks=2)
    source, network = built(spatial_prior=prior), built(seed=1, spatial_prior=prior)
    source.blocks[1].attn.prior.outer_bias.data.fill_(2.0)
    begun(network, state(source))
    assert (network.blocks[1].attn.prior.outer_bias == 2.0).all()


def test_keys_that_are_missing_unexpected_or_of_another_shape_are_listed() -> None:
    tensors = state(built())
    del tensors["norm.weight"]
    tensors |= {f"extra.{index}": torch.ones(1) for index in range(9)}
    tensors["blocks.0.attn.qkv.weight"] = torch.ones(24, 8)
    network = built(seed=1)
    before = state(network)
    with pytest.raises(ValueError, match="of another network") as refused:
        adapt_weights(network, tensors)
    for said in (
        "missing norm.weight;",
        "unexpected extra.0, extra.1, extra.2, extra.3 and 5 more;",
        "of another shape blocks.0.attn.qkv.weight (24 x 8, here 48 x 16)",
        "Set model.name and model.kwargs",
    ):
        assert said in str(refused.value)
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())


def test_other_tokens_beside_the_patches_are_refused_with_what_they_are() -> None:
    with pytest.raises(
        ValueError, match=r"embeddings of 36 tokens cannot be resized: .* \(1\) they are not a square grid"
    ):
        adapt_weights(built(), state(built(kwargs=SMALL | {"class_token": False, "global_pool": "avg"})))


def test_fit_needs_no_more_than_the_shapes_of_a_network() -> None:
    with torch.device("meta"):
        network = built(side=16, classes=10)
    assert len(adapt_weights(network, state(built())).notes) == 2


def test_fit_draws_nothing() -> None:
    network, tensors = built(side=16, classes=10), state(built())
    before = torch.get_rng_state()
    adapt_weights(network, tensors).load(network)
    assert torch.equal(torch.get_rng_state(), before)


# Sources.


def described(**settings: Any) -> dict[str, Any]:
    model = {"name": VIT, "kwargs": SMALL, "init": "xavier", "drop_path": 0.0, **settings}
    return {"model": model, "num_classes": 3, "image_size": [12, 12], "channels": 1}


CONFIG = ModelConfig(VIT, SMALL, "xavier", 0.0)


@pytest.mark.parametrize("last_block", ["standard", "no_skip"])
def test_source_is_the_network_of_its_sidecar_whatever_is_trained(last_block: str) -> None:
    source = built(last_block=last_block)
    weights = Weights("spec", "", "", network=described(last_block=last_block))
    found = load_source(weights, state(source), ModelConfig("swin_tiny_patch4_window7_224", {}, "timm", 0.0), (24, 24))
    with torch.no_grad():
        assert torch.equal(found.eval()(pictures()), source(pictures()))


def test_source_of_timm_is_built_as_timm_has_it() -> None:
    import timm

    name = "test_vit"
    tensors = dict(timm.create_model(name).state_dict())
    found = load_source(Weights("spec", "", "", network={"timm": name}), tensors, CONFIG, (12, 12))
    assert torch.equal(found.blocks[0].attn.qkv.weight, tensors["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("last_block", ["standard", "no_skip"])
@pytest.mark.parametrize("headless", [False, True])
def test_bare_file_is_taken_for_the_network_of_the_parameters(last_block: str, headless: bool) -> None:
    source = built(last_block=last_block, channels=3)
    tensors = {name: each for name, each in state(source).items() if not (headless and name.startswith("head."))}
    config = ModelConfig(VIT, SMALL, "xavier", 0.0, last_block="no_skip")
    found = load_source(Weights("spec", "", ""), tensors, config, (12, 12)).eval()
    features = pictures().expand(-1, 3, -1, -1)
    with torch.no_grad():
        assert torch.equal(found.forward_features(features), source.forward_features(features))


def test_bare_file_of_another_network_is_refused_with_what_describes_itself() -> None:
    with pytest.raises(
        ValueError, match=r"bare file .* does not say .*of another shape pos_embed.*a checkpoint's folder"
    ):
        load_source(Weights("spec", "", ""), state(built(side=16)), CONFIG, (12, 12))


def test_source_whose_sidecar_is_not_its_own_is_refused() -> None:
    tensors = state(built(kwargs=SMALL | {"depth": 2}))
    with pytest.raises(ValueError, match=r"the network that their record describes: missing blocks\.2"):
        load_source(Weights("spec", "", "", network=described()), tensors, CONFIG, (12, 12))
    with pytest.raises(ValueError, match=r"cannot be rebuilt from their record: .*vit_none"):
        load_source(Weights("spec", "", "", network=described(name="vit_none")), {}, CONFIG, (12, 12))


# Names of timm's.


def test_name_of_timm_without_a_connection_says_that_a_file_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"timm could not get these weights \(.*\)\. Without a connection name a file"):
        fetch_timm("vit_tiny_patch16_224.augreg_in21k")
    assert torch.equal(torch.get_rng_state(), before)


def test_name_that_timm_has_no_weights_of_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ValueError, match=r"nor a model of timm; did you mean vit_tiny_patch16_224"):
        fetch_timm("vit_tiny_patch16_225.augreg_in21k")
    with pytest.raises(ValueError, match=r"has no such weights; it has vit_tiny_patch16_224\.augreg_in21k"):
        fetch_timm("vit_tiny_patch16_224.mine")
    with pytest.raises(ValueError, match="has no such weights; it has none of this model"):
        fetch_timm("vit_base_patch16_gap_224")
