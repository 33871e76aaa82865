"""Claims about several workers: what they train together is what a single worker trains, whatever the batches' sizes.

Both sum in another order, so the claims are made in float64, where nothing but a real difference shows.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.double_precision import DoubleBatches
from support.run_comparison import untimed, weights
from torch import Tensor, nn

from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import UNDECIDED, Prepared
from pipeline.models.build import build_model
from pipeline.models.freeze import freeze
from pipeline.models.model_config import ModelConfig
from pipeline.regularizers.base import Features, Regularizer, RegularizerOutput, RequiredFeatures
from pipeline.regularizers.guide_network import GuideNetwork
from pipeline.regularizers.head_disagreement import HeadDisagreement
from pipeline.regularizers.locality_guidance import LocalityGuidance
from pipeline.regularizers.mask_supervision import MaskSupervision
from pipeline.regularizers.relative_localisation import RelativeLocalisation
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.regularizers.total_variation import TotalVariation
from pipeline.train.checkpoint import load_state, load_weights, save_checkpoint
from pipeline.train.distributed import check_shareable
from pipeline.train.loop import Diverged, fit
from pipeline.train.rank_info import RankInfo
from pipeline.train.train_config import TrainConfig

sys.path.insert(0, str(Path(__file__).parent))  # spawned processes import this file by its name
from support.gloo_ranks import run_together, save_by_first

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = 29
"""Of batches of 8, the last has 5; of 7, it has 1, of which only one worker has any."""

# By SGD, since Adam does not see a gradient that is too large by a factor.
RECIPE = TrainConfig(
    epochs=2,
    batch_size=8,
    lr=0.05,
    min_lr=0.0,
    warmup_epochs=1,
    weight_decay=0.01,
    label_smoothing=0.1,
    clip_grad=None,
    optimizer="sgd",
)


class Pairs(RelativeLocalisation):
    """Relative localisation with the same pairs for every image: its own draws are each worker's own."""

    def forward(self, features: Features) -> RegularizerOutput:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first = torch.randint(9, (2, 1, self.pairs))
        from pipeline.regularizers.relative_localisation import relative_localisation

        assert features.tokens is not None
        assert self.predictor is not None
        places = first.expand(-1, len(features.tokens), -1)
        loss = relative_localisation(features.tokens, places, self.predictor)
        return RegularizerOutput(loss, {"value": loss.detach()})


class HalfEmpty(SpatialEntropy):
    """Spatial entropy of maps of which those of images with a dark corner are made empty: most of one class alone, so
    that they are unevenly spread.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.needs = RequiredFeatures(similarity="all", inputs=True)

    def forward(self, features: Features) -> RegularizerOutput:
        assert features.similarity is not None
        assert features.inputs is not None
        dark = features.inputs[:, 0, 0, 0] < 0.0
        maps = features.similarity.where(~dark[:, None, None, None, None], torch.zeros(()))
        return super().forward(Features(similarity=maps))


def guide() -> GuideNetwork:
    torch.manual_seed(4)
    return GuideNetwork(8, num_classes=2, channels=1)


METHODS: dict[str, Callable[[], Regularizer]] = {
    "spatial_entropy": lambda: SpatialEntropy(weight=0.5, layers="all"),
    "half_empty": lambda: HalfEmpty(weight=0.5, layers="all"),
    "total_variation": lambda: TotalVariation(weight=0.05),
    "head_disagreement": lambda: HeadDisagreement(weight=0.5),
    "pairs": lambda: Pairs(weight=0.5, pairs=8),
    "masks": lambda: MaskSupervision(weight=0.5, layers="all"),
    "guided": lambda: LocalityGuidance(weight=0.5, guide=guide()),
}
CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "plain": ([], {}),
    "odd last batch": (["half_empty"], {"batch_size": 7}),
    "accumulated": (["spatial_entropy"], {"accumulate": 2}),
    "accumulated, odd": (["half_empty"], {"accumulate": 3, "batch_size": 7}),
    "regularised": (["spatial_entropy", "total_variation", "head_disagreement"], {}),
    "learning method": (["pairs"], {"accumulate": 2, "clip_grad": 0.5}),
    "mixed": ([], {"mixup": 0.8, "cutmix": 1.0, "batch_size": 7, "accumulate": 2, "augment": "light", "erasing": 0.5}),
    "weighted": ([], {"class_weights": {"1": 5.0}, "accumulate": 3, "batch_size": 7}),
    "weighted, mixed": (["half_empty"], {"class_weights": {"1": 5.0}, "mixup": 0.8, "accumulate": 2, "batch_size": 7}),
    "evenly sampled": (
        [],
        {"sampling": "balanced", "accumulate": 2, "batch_size": 7, "augment": "light", "mixup": 0.8},
    ),
    "fine-tuned": (
        ["spatial_entropy"],
        {"layer_decay": 0.5, "classifier_lr_scale": 3.0, "accumulate": 2, "batch_size": 7},
    ),
    "half frozen": (["half_empty"], {"layer_decay": 0.5, "accumulate": 2, "batch_size": 7}),
    "linear probe": ([], {"ema_decay": 0.8, "optimizer": "adamw", "lr": 2e-3, "batch_size": 7}),
    "guided": (["guided"], {"accumulate": 3, "batch_size": 7, "clip_grad": 0.5}),
    "masked": (["masks"], {"accumulate": 3, "batch_size": 7}),
    "masked and mixed": (
        ["masks", "half_empty"],
        {"mixup": 0.8, "cutmix": 1.0, "augment": "light", "accumulate": 2, "batch_size": 7, "sampling": "balanced"},
    ),
    "averaged": (["spatial_entropy"], {"ema_decay": 0.8, "optimizer": "adamw", "lr": 2e-3}),
}
FROZEN: dict[str, int | str] = {"half frozen": 1, "linear probe": "all"}
HALF = {"precision": "bfloat16", "grad_checkpointing": True}
"""Not among them: autocast leaves float64 as it is."""


def images(count: int = IMAGES, kind: type[ImageBatches] = DoubleBatches) -> ImageBatches:
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % 2
    pixels = rng.integers(0, 120, size=(count, 12, 12, 1), dtype=np.uint8)
    pixels[labels == 0, :, :6] += 100
    pixels[labels == 1, :, 6:] += 100
    masks = (pixels[..., 0] > 100).astype(np.uint8)
    masks[::3] = UNDECIDED
    prepared = Prepared(pixels, labels, masks, {"classes": ["0", "1"]})
    return kind(prepared, list(range(count)), Standardisation((0.4,), (0.3,)), torch.device("cpu"))


def network(frozen: int | str = 0) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    tiny = ModelConfig("vit_tiny_patch16_224", kwargs, "xavier", 0.0)
    model: nn.Module = build_model(tiny, num_classes=2, image_size=(12, 12), channels=1).double()
    freeze(model, frozen)
    return model


def trained(case: str, world: RankInfo | None = None, **more: Any) -> dict[str, Any]:
    names, recipe = CASES[case]
    model = network(FROZEN.get(case, 0))
    given = {"regularizers": {name: METHODS[name]() for name in names}, "seed": 3, "val": images(10)} | more
    epochs = list(fit(model, images(), replace(RECIPE, **recipe), world=world, **given))
    return {"metrics": [untimed(epoch) for epoch in epochs], "weights": weights(epochs[-1].model)}


def trained_by_halves(world: RankInfo | None = None) -> dict[str, Tensor]:
    """The weights of a run in bfloat16."""
    model = network().float()
    *_, last = fit(model, images(kind=ImageBatches), replace(RECIPE, **HALF), seed=3, world=world)
    return weights(last.model)


def train_all(world: RankInfo, folder: Path) -> None:
    for case in CASES:
        save_by_first(world, trained(case, world), folder / f"{case}.pt")
    save_by_first(world, trained_by_halves(world), folder / "halves.pt")
    resume(world, folder)
    diverging(world, folder)


def resume(world: RankInfo, folder: Path) -> None:
    """Train the case `averaged` with a break after its first epoch."""
    names, recipe = CASES["averaged"]
    config = replace(RECIPE, **recipe)
    model, place = network(), folder / f"broken-{world.rank}"
    broken = fit(model, images(), config, regularizers={n: METHODS[n]() for n in names}, seed=3, world=world)
    first = next(broken)
    save_checkpoint(place, first.model, {}, state=first.state())
    broken.close()  # type: ignore[attr-defined]
    again = network()
    load_weights(place, again)
    rest = fit(
        again,
        images(),
        config,
        regularizers={n: METHODS[n]() for n in names},
        seed=3,
        world=world,
        resume=load_state(place),
    )
    *_, last = rest
    save_by_first(world, weights(last.model), folder / "resumed.pt")


def diverging(world: RankInfo, folder: Path) -> None:
    """Every worker is told that the run has diverged, though one of them alone has seen it."""

    class Once(Regularizer):
        def __init__(self) -> None:
            super().__init__(1.0, RequiredFeatures(tokens=True), schedule="constant")

        def forward(self, features: Features) -> RegularizerOutput:
            assert features.tokens is not None
            loss = features.tokens.square().mean() * (float("inf") if world.rank else 1.0)
            return RegularizerOutput(loss, {})

    try:
        list(fit(network(), images(), RECIPE, regularizers={"once": Once()}, seed=3, world=world))
    except Diverged as error:
        (folder / f"diverged-{world.rank}").write_text(str(error.epoch))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case trained by two workers."""
    folder = tmp_path_factory.mktemp("together")
    run_together(train_all, 2, folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_workers_train_what_one_trains(case: str, together: Path) -> None:
    alone, both = trained(case), torch.load(together / f"{case}.pt")
    for one, two in zip(alone["metrics"], both["metrics"], strict=True):
        assert two == pytest.approx(one, rel=1e-10, abs=1e-10)
    torch.testing.assert_close(_decided(both["weights"]), _decided(alone["weights"]), rtol=1e-10, atol=1e-10)


def _decided(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the keys' biases: softmax does not see them, and Adam makes whole steps of the rounding in 0."""
    return {name: each[[*range(16), *range(32, 48)]] if "qkv.bias" in name else each for name, each in tensors.items()}


def test_two_workers_in_half_precision_go_the_way_of_one_in_double(together: Path) -> None:
    """Numbers of 8 bits are rounded by up to 2 ** -8 of themselves, in each of about a dozen layers; a share of the
    images that counts twice, or not at all, is ten times as much.
    """
    start, exact, both = (
        torch.cat([each.double().flatten() for each in tensors.values()])
        for tensors in (weights(network()), trained("plain")["weights"], torch.load(together / "halves.pt"))
    )
    assert 0 < (both - exact).norm() < 12 * 2**-8 * (exact - start).norm()


def test_run_of_two_workers_resumed_is_the_unbroken_one(together: Path) -> None:
    unbroken = torch.load(together / "averaged.pt")["weights"]
    torch.testing.assert_close(torch.load(together / "resumed.pt"), unbroken, rtol=0, atol=0)


def test_all_workers_hear_that_a_run_has_diverged(together: Path) -> None:
    assert [(together / f"diverged-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
def test_shares_are_the_batch_and_are_cut_into_pieces_as_a_step_cuts_them(
    count: int, accumulate: int, size: int
) -> None:
    shares = [RankInfo(rank, size).share(count, accumulate) for rank in range(size)]
    pieces = [piece.tolist() for piece in torch.arange(count).tensor_split(min(accumulate, count))]
    cuts = [torch.from_numpy(share.rows).tensor_split(min(accumulate, len(share.rows))) for share in shares]
    for number, piece in enumerate(pieces):
        together = [cut[number][: share.sizes[number]].tolist() for share, cut in zip(shares, cuts, strict=True)]
        assert [place for part in together for place in part] == piece
        assert max(map(len, together)) - min(map(len, together)) <= 1
        for share, cut in zip(shares, cuts, strict=True):
            assert share.wholes[number] == len(piece)
            assert len(cut[number]) == max(1, share.sizes[number])
            assert set(cut[number].tolist()) <= set(piece)


def test_every_batch_of_an_epoch_has_its_share() -> None:
    shares = RankInfo(1, 2).shares(29, 8, 2)
    assert [share.images for share in shares] == [8, 8, 8, 5]
    assert [share.sizes for share in shares] == [(2, 2), (2, 2), (2, 2), (1, 1)]


def test_network_with_batch_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"BatchNorm2d.*retrain\.workers_per_run to 1"):
        check_shareable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
