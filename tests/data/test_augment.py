"""Claims about augmentation: what becomes of an image is decided by seed, epoch and its id, and nothing else."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.augment.augment import Augmentation, EpochAugmenter
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared

CPU = torch.device("cpu")
LIGHT, DEIT, ERASED = Augmentation("light"), Augmentation("deit"), Augmentation(erasing=1.0)


def prepared(count: int = 12, side: int = 16, channels: int = 3) -> Prepared:
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return Prepared(images, np.arange(count, dtype=np.int64), None, {})


def epoch(
    augmentation: Augmentation | None,
    *,
    ids: Any = range(12),
    batch_size: int = 4,
    seed: int = 1,
    number: int = 2,
    channels: int = 3,
    side: int = 16,
) -> dict[int, Tensor]:
    """Every image of an epoch by its label, which is its id."""
    scale = Standardisation((0.5,) * channels, (0.25,) * channels)
    batches = ImageBatches(prepared(12, side, channels), list(ids), scale, CPU)
    drawn = batches.shuffled(batch_size, seed=seed, epoch=number, augmentation=augmentation)
    return {int(label): image for inputs, labels in drawn for image, label in zip(inputs, labels, strict=True)}


def same(first: dict[int, Tensor], second: dict[int, Tensor]) -> list[bool]:
    return [torch.equal(first[name], second[name]) for name in first if name in second]


@pytest.mark.parametrize("augmentation", [LIGHT, DEIT, ERASED, Augmentation("deit", erasing=0.5)])
def test_image_changes_by_seed_epoch_and_id_alone(augmentation: Augmentation) -> None:
    first = epoch(augmentation)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert all(same(epoch(augmentation), first))
    assert all(same(epoch(augmentation, batch_size=5), first))
    assert all(same(epoch(augmentation, ids=[5, 3, 7]), first))
    assert len(same(epoch(augmentation, ids=[5, 3, 7]), first)) == 3
    assert not all(same(epoch(augmentation, seed=2), first))
    assert not all(same(epoch(augmentation, number=3), first))
    assert not all(same(epoch(None), first))


@pytest.mark.parametrize("augmentation", [LIGHT, DEIT, ERASED])
def test_every_image_has_draws_of_its_own(augmentation: Augmentation) -> None:
    one = prepared(1).images[0]
    alike = Prepared(np.stack([one] * 12), np.arange(12, dtype=np.int64), None, {})
    batches = ImageBatches(alike, range(12), Standardisation((0.0,) * 3, (1.0,) * 3), CPU)
    (inputs, _) = next(batches.shuffled(12, seed=0, epoch=0, augmentation=augmentation))
    assert len({image.numpy().tobytes() for image in inputs}) > 6


@pytest.mark.parametrize("augmentation", [LIGHT, DEIT, ERASED])
def test_global_streams_are_left_as_they_were(augmentation: Augmentation) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index, union-attr]
    epoch(augmentation)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # type: ignore[index, union-attr]


@pytest.mark.parametrize("augmentation", [LIGHT, DEIT])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [2, 4, 12, 33])
def test_pixels_stay_pixels_of_the_same_shape(augmentation: Augmentation, channels: int, side: int) -> None:
    augmenter = EpochAugmenter(augmentation, (0.5,) * channels, images=5, seed=0, epoch=0)
    pixels = torch.from_numpy(prepared(5, side, channels).images).permute(0, 3, 1, 2).contiguous()
    kept = pixels.clone()
    changed = augmenter.change(pixels, np.arange(5))
    assert (changed.shape, changed.dtype, changed.is_contiguous()) == (pixels.shape, torch.uint8, True)
    assert not torch.equal(changed, pixels)
    assert torch.equal(pixels, kept)  # the role's own pixels are as they were


def slowly_shifted(image: NDArray[Any], down: int, right: int, mirrored: bool) -> NDArray[Any]:
    """(H, W) cut out of its reflection."""
    reach = max(1, len(image) // 8)
    wide = np.pad(image, reach, mode="reflect")
    cut = wide[reach + down : reach + down + len(image), reach + right : reach + right + len(image)]
    return cut[:, ::-1] if mirrored else cut


@pytest.mark.parametrize("flip", [True, False])
def test_light_is_a_shift_of_at_most_an_eighth_and_a_mirror_image(flip: bool) -> None:
    pixels = torch.from_numpy(prepared(300, 16, 1).images).permute(0, 3, 1, 2).contiguous()
    augmenter = EpochAugmenter(Augmentation("light", flip), (0.5,), images=300, seed=0, epoch=0)
    changed = augmenter.change(pixels, np.arange(300)).numpy()[:, 0]
    seen = set()
    for before, after in zip(pixels.numpy()[:, 0], changed, strict=True):
        every = [(y, x, m) for y in range(-2, 3) for x in range(-2, 3) for m in (False, True)]
        (found,) = [each for each in every if np.array_equal(slowly_shifted(before, *each), after)]
        seen.add(found)
    assert len(seen) == (50 if flip else 25)
    assert any(mirrored for _, _, mirrored in seen) == flip


def test_grey_image_is_augmented_as_its_coloured_copy_and_stays_grey() -> None:
    grey = prepared(12, 16, 1).images
    given = {1: grey, 3: np.repeat(grey, 3, axis=-1)}
    found = {}
    for channels, images in given.items():
        augmenter = EpochAugmenter(DEIT, (0.5,) * channels, images=12, seed=0, epoch=0)
        found[channels] = augmenter.change(torch.from_numpy(images).permute(0, 3, 1, 2), np.arange(12))
    torch.testing.assert_close(found[3], found[1].expand(-1, 3, -1, -1))


def test_images_of_other_channels_are_refused_by_what_works_on_colour() -> None:
    with pytest.raises(ValueError, match=r"^train\.augment deit is for images of 1 or 3 channels, not 4"):
        DEIT.check(4)
    LIGHT.check(4)
    with pytest.raises(ValueError, match="unknown augmentation 'strong'; known: none, light, deit"):
        Augmentation("strong")


def test_erasing_puts_noise_into_one_rectangle_and_leaves_the_rest() -> None:
    plain, erased = epoch(None), epoch(ERASED)
    for name, image in plain.items():
        changed = (image != erased[name]).all(dim=0)
        rows, columns = changed.any(dim=1).nonzero()[:, 0], changed.any(dim=0).nonzero()[:, 0]
        area = len(rows) * len(columns)
        assert changed.sum() == area == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert 0.01 < area / 256 < 0.4
        assert erased[name][:, changed].std() > 0.3  # in standardised units
    some = epoch(Augmentation(erasing=0.5))
    assert 0 < sum(same(some, plain)) < 12


def test_standardisation_comes_between_the_pixels_and_the_erasing() -> None:
    light, both = epoch(LIGHT), epoch(Augmentation("light", erasing=1.0))
    levels = torch.tensor([(level / 255 - 0.5) / 0.25 for level in range(256)])
    assert all(torch.isin((image * 1000).round(), (levels * 1000).round()).all() for image in light.values())
    for name, image in light.items():
        untouched = (image == both[name]).all(dim=0)
        assert 0.6 < untouched.float().mean() < 0.99


@pytest.mark.parametrize("augmentation", [LIGHT, DEIT, ERASED])
def test_image_that_comes_twice_in_a_balanced_epoch_is_augmented_twice(augmentation: Augmentation) -> None:
    """By its place in the epoch: the same in batches of any size, and in parts of them."""
    labels = np.array([0] * 11 + [1], dtype=np.int64)  # so that about every other image is the last one
    batches = ImageBatches(
        Prepared(prepared().images, labels, None, {}), range(12), Standardisation((0.5,) * 3, (0.25,) * 3), CPU
    )

    def shown(batch_size: int, **more: Any) -> list[tuple[bytes, int]]:
        made = batches.shuffled(batch_size, seed=1, epoch=2, augmentation=augmentation, balanced=True, **more)
        return [(image.numpy().tobytes(), int(label)) for inputs, found in made for image, label in zip(inputs, found, strict=True)]  # fmt: skip

    whole = shown(4)
    copies = [image for image, label in whole if label == 1]
    assert len(copies) > 3
    assert len(set(copies)) > 0.7 * len(copies)
    assert shown(5) == whole
    assert shown(4, part=lambda _: np.array([3, 0])) == [whole[place] for start in (0, 4, 8) for place in (start + 3, start)]  # fmt: skip
