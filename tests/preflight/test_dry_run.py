"""Claims about networks that are tried before a search, and about the maps that reports show of them."""

from typing import Any

import pytest
import torch
from support.small_networks import PVT, SMALL, SWIN, network, pictures, softmaxed
from torch import Tensor

from pipeline.config import Params
from pipeline.data.sources.image_source import Preview
from pipeline.errors import UserError
from pipeline.preflight.dry_run import check_network, check_networks, check_regularizers
from pipeline.score.similarity_maps import last_block_maps
from pipeline.tune.space import SearchSpace

DIGITS = Preview(images=1797, classes=tuple("0123456789"), channels=1)
LAYERS = "regularizer.spatial_entropy.layers"
BLOCKS = "model.spatial_prior.blocks"


def setting(**values: Any) -> Params:
    changes = {"model.kwargs": SMALL} | {name.replace("__", "."): value for name, value in values.items()}
    return Params().with_values(changes, where="test")


def tried(params: Params, dimensions: dict[str, Any] | None = None, controls: dict[str, Any] | None = None) -> Any:
    return check_networks(params, SearchSpace("space.yaml", dimensions or {}, controls or {}), DIGITS, "cpu")


def test_network_is_told_with_its_weights_blocks_and_grid() -> None:
    found = tried(setting())
    assert (found.architecture.blocks, found.architecture.grid) == (3, (6, 6))
    assert (
        found.num_parameters == sum(each.numel() for each in network().parameters()) + 7 * 17
    )  # ten classes, not three


def test_weights_of_the_prior_and_of_the_convolutions_count() -> None:
    plain, prior = tried(setting()), tried(setting(model__spatial_prior__blocks=2))
    assert prior.num_parameters - plain.num_parameters == 2 * (3 * 16 + 16 + 2)
    conv = tried(setting(model__spatial_prior__positional_conv=True))
    assert conv.num_parameters - plain.num_parameters == 3 * 16 * 10


def test_prior_in_more_blocks_than_there_are_is_refused_wherever_it_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"params.yaml: model.spatial_prior: .* blocks: given 4, but this network has 3 blocks"):  # fmt: skip
        tried(setting(model__spatial_prior__blocks=4))
    with pytest.raises(UserError, match=r"space.yaml: controls.deep: model.spatial_prior: "):
        tried(setting(), controls={"deep": {BLOCKS: 4}})
    assert tried(setting(), {BLOCKS: {"type": "int", "low": 0, "high": 3}}).architecture.blocks == 3
    with pytest.raises(UserError, match=r"space.yaml: model.spatial_prior: "):
        tried(setting(), {BLOCKS: {"type": "int", "low": 0, "high": 4}})
    with pytest.raises(UserError, match=r"space.yaml: model.spatial_prior: "):
        tried(setting(), {BLOCKS: {"type": "categorical", "choices": [0, 4]}})


def test_initial_weights_and_stochastic_depth_may_be_searched() -> None:
    assert tried(setting(), {"model.drop_path": {"type": "float", "low": 0.0, "high": 0.2}}).architecture.blocks == 3


def test_last_block_without_skip_is_tried_where_it_is_searched() -> None:
    choices = {"model.last_block": {"type": "categorical", "choices": ["standard", "no_skip"]}}
    assert tried(setting(), choices).architecture.blocks == 3
    with pytest.raises(UserError, match=r"space.yaml: model.last_block: vit_base_patch16_rpn_224: .* ResPostBlock"):
        tried(
            setting(
                model__name="vit_base_patch16_rpn_224",
                model__kwargs=SMALL | {"class_token": True, "global_pool": "token"},
            ),
            choices,
        )


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("swin_tiny_patch4_window7_224", SWIN), ("pvt_v2_b0", PVT), ("vit_base_patch16_gap_224", SMALL)],
)
def test_network_without_a_cls_token_is_refused_only_where_a_method_asks_for_its_query(
    name: str, kwargs: dict[str, Any]
) -> None:
    watch, query = "regularizer.spatial_entropy.watch", "regularizer.spatial_entropy.query"
    params = setting(model__name=name, model__kwargs=kwargs, prepare__image_size=24)
    assert check_network(params, "test", 10, 1, "cpu").architecture.query == "mean"
    with pytest.raises(
        UserError, match=r"^params.yaml: regularizer.spatial_entropy: \w+ has no CLS token.*query 'mean'"
    ):
        check_regularizers(params, SearchSpace("space.yaml", {}, {}), DIGITS)
    for values in ({watch: False}, {query: "mean"}):
        check_regularizers(params.with_values(values, where="test"), SearchSpace("space.yaml", {}, {}), DIGITS)


def test_network_that_a_method_cannot_read_is_refused_where_the_space_chooses_it() -> None:
    names = {"model.name": {"type": "categorical", "choices": ["vit_tiny_patch16_224", "vit_base_patch16_gap_224"]}}
    params = setting(prepare__image_size=24)
    with pytest.raises(UserError, match=r"^space.yaml: regularizer.spatial_entropy: \w+ has no CLS token"):
        check_regularizers(params, SearchSpace("space.yaml", names, {}), DIGITS)


def test_methods_that_ask_for_masks_are_told_with_who_asks_for_them() -> None:
    weight = "regularizer.mask_supervision.weight"
    off, on = {weight: 0.0}, {weight: 0.1}
    params = setting(prepare__image_size=24)
    assert check_regularizers(params, SearchSpace("space.yaml", {}, {"baseline": off}), DIGITS) == {}
    asked = check_regularizers(params, SearchSpace("space.yaml", {}, {"bound": on}), DIGITS)
    assert asked == {"mask_supervision": "space.yaml: controls.bound"}
    searched = SearchSpace("space.yaml", {weight: {"type": "float", "low": 0.1, "high": 1.0}}, {"baseline": off})
    assert check_regularizers(params, searched, DIGITS) == {"mask_supervision": "space.yaml"}


@pytest.mark.parametrize(("name", "kwargs"), [("swin_tiny_patch4_window7_224", SWIN), ("pvt_v2_b0", PVT)])
def test_layers_of_a_method_that_is_off_are_not_asked_of_the_network(name: str, kwargs: dict[str, Any]) -> None:
    guided, variation = "regularizer.guided_transfer", "regularizer.total_variation"
    params = setting(model__name=name, model__kwargs=kwargs, prepare__image_size=24)  # guided_transfer.layers is "all"
    assert params.regularizer.guided_transfer.layers == "all"
    tried(params)
    said = rf"{guided}.layers: layers names block 0, whose tokens are not the final"
    for values in ({f"{guided}.weight": 0.1}, {f"{guided}.watch": True}):
        with pytest.raises(UserError, match=rf"^params.yaml: {said}"):
            tried(params.with_values(values, where="test"))
        with pytest.raises(UserError, match=rf"^space.yaml: controls.guided: {said}"):
            tried(params, controls={"guided": values})
    with pytest.raises(UserError, match=rf"^params.yaml: {said}"):
        tried(params, {f"{guided}.weight": {"type": "float", "low": 0.0, "high": 1.0}})
    with pytest.raises(UserError, match=rf"^space.yaml: {said}"):
        tried(params, {f"{guided}.layers": {"type": "categorical", "choices": ["last", "all"]}})
    both = {f"{variation}.layers": "all", f"{variation}.weight": 0.1, f"{guided}.watch": True}
    with pytest.raises(UserError) as refused:
        tried(params.with_values(both, where="test"))
    assert [line.partition(": layers")[0] for line in str(refused.value).splitlines()] == [
        f"params.yaml: {variation}.layers",
        f"params.yaml: {guided}.layers",
    ]


def test_too_many_blocks_in_stages_are_refused_before_they_are_built() -> None:
    params = setting(model__name="pvt_v2_b0", model__kwargs={"depths": [1, 10**9]})
    with pytest.raises(UserError, match=r"given depths .*; allowed: at most 1000 blocks"):
        check_network(params, "test", 10, 1, "cpu")


class Images:
    """Stands in for `ImageBatches`."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def in_order(self, size: int) -> Any:
        for part in self.inputs.split(size):
            yield part, None


@pytest.mark.parametrize(
    ("name", "kwargs", "image_size", "cls"),
    [
        ("vit_tiny_patch16_224", SMALL, (12, 12), True),
        ("vit_base_patch16_gap_224", SMALL, (12, 8), False),
        ("pvt_v2_b0", PVT, (40, 24), False),
    ],
)
def test_maps_for_reports_are_of_the_cls_query_where_there_is_one(
    name: str, kwargs: dict[str, Any], image_size: tuple[int, int], cls: bool
) -> None:
    model, images = network(name, kwargs, image_size=image_size), pictures(*image_size, count=5)
    maps = last_block_maps(model, Images(images), batch_size=2)  # type: ignore[arg-type, unused-ignore]
    with torch.no_grad():
        logits = softmaxed(model, images)[-1]
    expected = logits[:, :, 0, 1:] if cls else logits.mean(2)
    torch.testing.assert_close(torch.from_numpy(maps).flatten(2), expected, rtol=0, atol=1e-5)


def test_recipe_that_the_network_or_the_images_cannot_have_is_refused_wherever_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on = {"train.mixup": 0.8, "train.batch_size": 1}
    with pytest.raises(UserError, match=r"^params\.yaml: train\.mixup .*set train\.batch_size to 2 or more\.$"):
        tried(setting(train__mixup=0.8, train__batch_size=1))
    with pytest.raises(UserError, match=r"^space\.yaml: controls\.single: train\.mixup"):
        tried(setting(), controls={"single": on})
    assert (
        tried(setting(train__grad_checkpointing=True, train__mixup=0.8, train__augment="deit")).architecture.blocks == 3
    )
    many = Preview(images=10, classes=("a", "b"), channels=4)
    with pytest.raises(UserError, match=r"^here: train\.augment deit is for images of 1 or 3 channels, not 4"):
        check_network(setting(train__augment="deit"), "here", 2, many.channels, "cpu")
    monkeypatch.delattr("timm.models.vision_transformer.VisionTransformer.set_grad_checkpointing")
    with pytest.raises(UserError, match=r"^here: train\.grad_checkpointing: VisionTransformer has no blocks"):
        check_network(setting(train__grad_checkpointing=True), "here", 10, 1, "cpu")


@pytest.mark.parametrize(
    ("patch_size", "side", "said"),
    [
        ([3, 4], 8, r"patch_size \[3, 4\] does not divide prepare.image_size 8; the last 2 rows of every image"),
        ([4, 3], 8, r"patch_size \[4, 3\] does not divide .*; the last 2 columns of every image"),
        ([3, 5], 8, "the last 2 rows and 3 columns of every image"),
        ([3, 6], 8, "the last 2 rows and columns of every image"),
        ([3, 4], 40, "the last row of every image"),
        ([5, 3], 10, "the last column of every image"),
        (3, 10, "the last row and column of every image"),
        ([3, 4], 10, "the last row and 2 columns of every image"),
        (3, 8, "patch_size 3 does not divide prepare.image_size 8; the last 2 rows and columns"),
    ],
)
def test_patches_that_leave_rows_or_columns_over_are_refused(patch_size: Any, side: int, said: str) -> None:
    kwargs = {"patch_size": patch_size, "embed_dim": 16, "depth": 2, "num_heads": 2}
    with pytest.raises(UserError, match=said):
        check_network(setting(model__kwargs=kwargs, prepare__image_size=side), "here", 10, 1, "cpu")


def test_patches_that_are_no_squares_are_taken_where_they_cover_the_image() -> None:
    kwargs = {"patch_size": [2, 4], "embed_dim": 16, "depth": 2, "num_heads": 2}
    found = check_network(setting(model__kwargs=kwargs, prepare__image_size=8), "here", 10, 1, "cpu")
    assert found.architecture.grid == (4, 2)
