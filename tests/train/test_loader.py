"""Claims about the batches that a run trains on: mixed as timm does it, and decided by seed and epoch alone."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data.augment.rng import MIXING, isolated_rng
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import UNDECIDED, Prepared
from pipeline.regularizers.mask_supervision import MaskSupervision
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.loader import TrainLoader, check_masks, make_augmentation, make_mixer, mix
from pipeline.train.rank_info import RankInfo
from pipeline.train.train_config import TrainConfig

PLAIN = TrainConfig(4, 8, 2e-3, 0.0, 1, 0.1, 0.0, None)
MIXED = replace(PLAIN, mixup=0.8, cutmix=1.0, label_smoothing=0.1)


class Classes(nn.Module):
    num_classes = 5


def images(count: int = 27) -> ImageBatches:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 1), dtype=np.uint8)
    prepared = Prepared(pixels, np.arange(count, dtype=np.int64) % 5, None, {})
    return ImageBatches(prepared, range(count), Standardisation((0.5,), (0.25,)), torch.device("cpu"))


def fed(config: TrainConfig, *, epoch: int = 2, seed: int = 3) -> list[tuple[Tensor, Tensor]]:
    return list(TrainLoader(images(), config, model=Classes(), seed=seed).epoch(epoch))


def equal(first: list[tuple[Tensor, ...]], second: list[tuple[Tensor, ...]]) -> bool:
    return all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_recipe_that_asks_for_nothing_gives_the_plain_batches_and_draws_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a stream was touched")

    monkeypatch.setattr(random, "seed", refuse)
    monkeypatch.setattr(np.random, "seed", refuse)
    assert equal(fed(PLAIN), list(images().shuffled(8, seed=3, epoch=2)))
    assert make_mixer(PLAIN, nn.Linear(2, 2)) is None
    assert make_augmentation(PLAIN, channels=7) is None
    with pytest.raises(AssertionError, match="touched"):
        fed(MIXED)


def test_balanced_sampling_is_that_of_the_batches() -> None:
    found = fed(replace(PLAIN, sampling="balanced"))
    assert equal(found, list(images().shuffled(8, seed=3, epoch=2, balanced=True)))
    assert not equal(found, fed(PLAIN))


def test_batches_are_mixed_by_seed_epoch_and_step_alone() -> None:
    first = fed(MIXED)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert equal(fed(MIXED), first)
    assert not equal(fed(MIXED, epoch=3), first)
    assert not equal(fed(MIXED, seed=4), first)
    assert len({tuple(shares[0].tolist()) for _, shares in first}) == 4  # every batch has its own
    state = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    fed(MIXED)
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index, union-attr]


def test_batch_of_an_even_size_is_mixed_as_timm_does_it_by_itself() -> None:
    inputs, labels = next(images().in_order(8))
    reference = Mixup(0.8, 1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=5)
    with isolated_rng() as seed:
        seed(3, 2, MIXING, 0)
        wanted = reference(inputs.clone(), labels)
    mixer = make_mixer(MIXED, Classes())
    with isolated_rng() as seed:
        seed(3, 2, MIXING, 0)
        found = mix(mixer, inputs.clone(), labels)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert not torch.equal(found[0], inputs)


@pytest.mark.parametrize("recipe", [{"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
def test_every_image_meets_its_mirror_in_the_batch_and_none_is_lost(recipe: dict[str, float], count: int) -> None:
    inputs, labels = next(images().in_order(count))
    mixer = make_mixer(replace(MIXED, label_smoothing=0.0, **recipe), Classes())
    with isolated_rng() as seed:
        seed(11)
        mixed, shares = mix(mixer, inputs.clone(), labels)
    assert mixed.shape == inputs.shape
    assert shares.shape == (count, 5)
    own, other = F.one_hot(labels, 5).float(), F.one_hot(labels.flip(0), 5).float()
    differing = (labels != labels.flip(0)).nonzero()[:, 0]
    lam = shares[differing[0], labels[differing[0]]] if len(differing) else torch.tensor(1.0)
    torch.testing.assert_close(shares, lam * own + (1 - lam) * other)
    if recipe["mixup"]:
        torch.testing.assert_close(mixed, lam * inputs + (1 - lam) * inputs.flip(0), atol=1e-5, rtol=1e-5)
    else:
        from_other = (mixed == inputs.flip(0)) & (inputs != inputs.flip(0))
        assert (from_other | (mixed == inputs)).all()
        cut = from_other[differing].float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(cut, (1 - lam).expand(len(differing)), atol=0.02, rtol=0)
    if count % 2:
        torch.testing.assert_close(mixed[count // 2], inputs[count // 2])


def test_probabilities_decide_how_often_and_which() -> None:
    def changed(**recipe: Any) -> float:
        plain = fed(replace(PLAIN, batch_size=2))
        config = replace(MIXED, batch_size=2, **recipe)
        changes = [not torch.equal(a[0], b[0]) for a, b in zip(plain, fed(config), strict=True)]
        return float(np.mean(changes[:-1]))  # the last image is alone in its batch

    assert changed() == 1.0
    assert 0.2 < changed(mixup_prob=0.5) < 0.8
    # CutMix alone leaves every pixel that of one of two images; mixup alone none.
    boxes = fed(replace(MIXED, mixup_switch=1.0))
    blends = fed(replace(MIXED, mixup_switch=0.0))
    plain = fed(PLAIN)
    pure = [((m == p) | (m == p.flip(0))).float().mean() for (m, _), (p, _) in zip(boxes, plain, strict=True)]
    mixed = [((m == p) | (m == p.flip(0))).float().mean() for (m, _), (p, _) in zip(blends, plain, strict=True)]
    assert min(pure) == 1.0
    assert max(mixed) < 0.5


def test_mixing_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"set train\.batch_size to 2 or more"):
        make_mixer(replace(MIXED, batch_size=1), Classes())
    with pytest.raises(ValueError, match="the number of classes, which Linear lacks"):
        make_mixer(MIXED, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        make_augmentation(replace(PLAIN, augment="deit"), channels=2)


# Masks.


def masked(kind: type[ImageBatches] = ImageBatches) -> ImageBatches:
    """Images that show their masks, and nothing else: black where there is background, white where there is object."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (40, 16, 16), dtype=np.uint8)
    images = masks[..., None] * np.uint8(255)
    # Test images: no training batch may so much as look at theirs.
    masks[27:] = 77
    prepared = Prepared(images, np.arange(40, dtype=np.int64) % 5, masks, {})
    return kind(prepared, range(27), Standardisation((0.0,), (1.0,)), torch.device("cpu"))


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"augment": "light"},
        {"cutmix": 1.0},
        {"mixup": 0.8},
        {"mixup": 0.8, "cutmix": 1.0, "mixup_prob": 0.7, "augment": "light", "sampling": "balanced"},
    ],
)
@pytest.mark.parametrize("world", [None, RankInfo(0, 2), RankInfo(1, 2)])
def test_masks_are_moved_and_mixed_as_their_images(recipe: dict[str, Any], world: RankInfo | None) -> None:
    config = replace(PLAIN, batch_size=7, **recipe)
    shares = None if world is None else world.shares(27, 7, 2)
    plain = TrainLoader(masked(), config, model=Classes(), seed=3, shares=shares)
    loader = TrainLoader(masked(), config, model=Classes(), seed=3, shares=shares, masks=True)
    found = list(loader.with_masks(1))
    assert equal([(inputs, labels) for inputs, labels, _ in found], list(plain.epoch(1)))
    for inputs, _, masks in found:
        assert masks is not None
        torch.testing.assert_close(masks, inputs[:, 0], rtol=0, atol=1e-6)
    assert all(masks is None for _, _, masks in plain.with_masks(1))


def test_what_is_undecided_in_one_of_two_blended_images_is_undecided_and_a_pasted_rectangle_brings_it_along() -> None:
    prepared = masked()
    half = replace(PLAIN, batch_size=27, sampling="shuffle")
    assert prepared._masks is not None
    undecided = np.array(prepared._masks)
    undecided[:27:2] = UNDECIDED
    prepared._masks = undecided
    blended, pasted = (
        next(TrainLoader(prepared, replace(half, **each), model=Classes(), seed=3, masks=True).with_masks(1))
        for each in ({"mixup": 0.8}, {"cutmix": 1.0})
    )
    order = np.random.default_rng([3, 1]).permutation(27)
    known = torch.from_numpy(order % 2 == 1)
    assert blended[2] is not None
    assert pasted[2] is not None
    assert torch.equal(~blended[2].isnan().any(-1).any(-1), known & known.flip(0))
    mixed = known != known.flip(0)
    assert mixed.any()
    shares = pasted[2][mixed].isnan().float().mean((-2, -1))
    assert ((shares > 0) & (shares < 1)).any()


def test_method_that_needs_masks_is_refused_by_its_name_where_there_are_none() -> None:
    method = MaskSupervision(weight=1.0)
    check_masks({"mask_supervision": MaskSupervision(weight=0.0), "sar": SpatialEntropy(weight=1.0)}, images())
    check_masks({"mask_supervision": method}, masked())
    with pytest.raises(
        ValueError, match=r"^regularizer\.mask_supervision: needs masks or boxes of the images, and this"
    ):
        check_masks({"mask_supervision": method}, images())


class Watched(np.ndarray):
    """Masks that remember which of their rows were read."""

    read: set[int]

    def __getitem__(self, rows: Any) -> Any:
        self.read.update(np.atleast_1d(rows).tolist())
        return np.asarray(super().__getitem__(rows))


@pytest.mark.parametrize("recipe", [{}, {"augment": "deit", "mixup": 0.8, "sampling": "balanced"}])
def test_of_no_image_of_another_role_is_the_mask_read(recipe: dict[str, Any]) -> None:
    watched = np.zeros((40, 16, 16), dtype=np.uint8).view(Watched)
    watched.read = set()
    prepared = Prepared(np.zeros((40, 16, 16, 1), dtype=np.uint8), np.arange(40, dtype=np.int64) % 5, watched, {})
    images = ImageBatches(prepared, range(27), Standardisation((0.0,), (1.0,)), torch.device("cpu"))
    loader = TrainLoader(images, replace(PLAIN, **recipe), model=Classes(), seed=3, masks=True)
    for epoch in range(3):
        assert all(masks is not None for _, _, masks in loader.with_masks(epoch))
    assert watched.read
    assert watched.read <= set(range(27))
    list(images.masks_in_order(8))
    assert watched.read == set(range(27))
