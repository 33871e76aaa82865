"""Claims about batches: every image once, in an order of seed and epoch, standardised as asked."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.batches.batches import ImageBatches, Standardisation, standardisation
from pipeline.data.prepared.prepared import Prepared

PLAIN = Standardisation((0.0,), (1.0,))
CPU = torch.device("cpu")


def numbered(count: int = 20) -> Prepared:
    """Images of 2 x 3 pixels whose grey level is ten times their id, and whose label is their id."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None] * 10, (count, 2, 3, 1)).copy()
    images.flags.writeable = False  # as memory-mapped ones are
    return Prepared(images, np.arange(count, dtype=np.int64), None, {})


def labels_of(batches: Any) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


def test_batches_in_order_hold_every_image_once_in_the_order_of_the_ids() -> None:
    batches = ImageBatches(numbered(), [7, 3, 11, 0, 5], PLAIN, CPU)
    found = list(batches.in_order(2))
    assert len(batches) == 5
    assert [labels.tolist() for _, labels in found] == [[7, 3], [11, 0], [5]]
    assert [inputs.shape for inputs, _ in found] == [(2, 1, 2, 3), (2, 1, 2, 3), (1, 1, 2, 3)]
    assert found[0][0].dtype == torch.float32
    assert found[0][1].dtype == torch.int64


def test_images_stay_with_their_labels() -> None:
    batches = ImageBatches(numbered(), range(20), PLAIN, CPU)
    for inputs, labels in batches.shuffled(3, seed=1, epoch=2):
        torch.testing.assert_close(inputs[:, 0, 0, 0] * 255 / 10, labels.float())


def test_shuffled_batches_hold_every_image_once_and_the_last_may_be_smaller() -> None:
    batches = ImageBatches(numbered(), range(20), PLAIN, CPU)
    found = list(batches.shuffled(8, seed=0, epoch=0))
    assert [len(labels) for _, labels in found] == [8, 8, 4]
    assert sorted(labels_of(found)) == list(range(20))


def test_shuffled_order_depends_on_seed_and_epoch_alone() -> None:
    batches = ImageBatches(numbered(), range(20), PLAIN, CPU)
    order = labels_of(batches.shuffled(4, seed=3, epoch=5))
    torch.manual_seed(99)
    assert labels_of(batches.shuffled(4, seed=3, epoch=4)) != order
    assert labels_of(batches.shuffled(4, seed=2, epoch=5)) != order
    assert labels_of(batches.shuffled(4, seed=5, epoch=3)) != order
    assert labels_of(batches.shuffled(7, seed=3, epoch=5)) == order
    assert labels_of(ImageBatches(numbered(), range(20), PLAIN, CPU).shuffled(4, seed=3, epoch=5)) == order
    assert order != sorted(order)


def test_shuffling_draws_nothing_from_the_global_streams() -> None:
    batches = ImageBatches(numbered(), range(20), PLAIN, CPU)
    stream = torch.get_rng_state()
    list(batches.shuffled(4, seed=0, epoch=0))
    assert torch.equal(torch.get_rng_state(), stream)


def test_batches_are_standardised_by_channel() -> None:
    images = np.array([0, 51, 102, 255, 0, 128], dtype=np.uint8).reshape(1, 1, 2, 3)
    prepared = Prepared(images, np.array([0]), None, {})
    scale = Standardisation((0.1, 0.2, 0.4), (0.5, 2.0, 0.1))
    (inputs, _) = next(ImageBatches(prepared, [0], scale, CPU).in_order(1))
    expected = [[(0 - 0.1) / 0.5, (1 - 0.1) / 0.5], [0.0, -0.1], [0.0, (128 / 255 - 0.4) / 0.1]]
    torch.testing.assert_close(inputs[0, :, 0], torch.tensor(expected), atol=1e-6, rtol=0)


def test_reading_batches_again_gives_the_same_again() -> None:
    batches = ImageBatches(numbered(), range(4), Standardisation((0.5,), (0.25,)), CPU)
    first, second = (torch.cat([inputs for inputs, _ in batches.in_order(3)]) for _ in range(2))
    assert torch.equal(first, second)


def all_inputs(images: NDArray[np.uint8], scale: Standardisation) -> Tensor:
    prepared = Prepared(images, np.zeros(len(images), dtype=np.int64), None, {})
    return torch.cat([inputs for inputs, _ in ImageBatches(prepared, range(len(images)), scale, CPU).in_order(16)])


def test_standardised_images_have_mean_0_and_deviation_1_by_channel() -> None:
    rng = np.random.default_rng(0)
    levels = [rng.integers(low, high, size=(50, 6, 7)) for low, high in ((0, 256), (100, 120), (0, 2))]
    images = np.stack(levels, axis=-1).astype(np.uint8)
    inputs = all_inputs(images, standardisation(images)).double()
    torch.testing.assert_close(inputs.mean(dim=(0, 2, 3)), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(dim=(0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-5, rtol=0)


def test_standardisation_is_numpys_mean_and_deviation() -> None:
    images = np.random.default_rng(1).integers(0, 256, size=(9, 5, 4, 2), dtype=np.uint8)
    scale = standardisation(images)
    assert scale.mean == pytest.approx((images / 255).mean(axis=(0, 1, 2)), abs=1e-12)
    assert scale.std == pytest.approx((images / 255).std(axis=(0, 1, 2)), abs=1e-12)


def test_constant_channel_keeps_deviation_1() -> None:
    images = np.full((3, 2, 2, 2), 255, dtype=np.uint8)
    images[0, 0, 0, 1] = 0
    scale = standardisation(images)
    assert scale.mean[0] == 1.0
    assert scale.std[0] == 1.0
    assert scale.std[1] < 1.0
    assert all_inputs(images, scale)[:, 0].abs().max() == 0.0


# Balanced sampling.


def uneven(counts: tuple[int, ...] = (40, 9, 1)) -> ImageBatches:
    """Images of one pixel, whose grey level is their id; of classes 0, 2, 4, ..., as many as asked for, mixed up."""
    labels = np.random.default_rng(0).permutation(np.repeat(2 * np.arange(len(counts)), counts))
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].copy()
    return ImageBatches(Prepared(pixels, labels, None, {}), range(len(labels)), PLAIN, CPU)


def ids_of(batches: Any) -> list[int]:
    return torch.cat([(255 * inputs).round().flatten() for inputs, _ in batches]).int().tolist()


def test_balanced_epoch_has_as_many_images_each_with_its_label() -> None:
    batches = uneven()
    found = list(batches.shuffled(8, seed=0, epoch=0, balanced=True))
    assert [len(labels) for _, labels in found] == [8, 8, 8, 8, 8, 8, 2]
    assert labels_of(found) == batches.labels[ids_of(found)].tolist()
    assert len(set(ids_of(found))) < 50


def test_balanced_epochs_have_every_class_equally_often_and_every_image_of_a_class_too() -> None:
    """Over 600 epochs of 50 images each count is binomial: within five of its standard deviations."""
    batches, epochs = uneven(), 600
    seen = np.array([ids_of(batches.shuffled(50, seed=1, epoch=epoch, balanced=True)) for epoch in range(epochs)])
    for label, count in ((0, 40), (2, 9), (4, 1)):
        share = np.isin(seen, np.flatnonzero(batches.labels == label)).mean()
        assert share == pytest.approx(1 / 3, abs=5 * np.sqrt(2 / 9 / seen.size))
        for number in np.flatnonzero(batches.labels == label):
            chance = 1 / 3 / count
            assert (seen == number).mean() == pytest.approx(chance, abs=5 * np.sqrt(chance / seen.size))
    # Without a rhythm: the number of one class in an epoch varies as draws with replacement do.
    spread = (batches.labels[seen] == 4).sum(axis=1).var()
    assert spread == pytest.approx(50 * 2 / 9, rel=0.3)


def test_balanced_order_depends_on_seed_and_epoch_alone_and_its_parts_are_its_own() -> None:
    order = ids_of(uneven().shuffled(4, seed=3, epoch=5, balanced=True))
    torch.manual_seed(99), np.random.seed(99)
    assert ids_of(uneven().shuffled(7, seed=3, epoch=5, balanced=True)) == order
    assert ids_of(uneven().shuffled(4, seed=3, epoch=4, balanced=True)) != order
    assert ids_of(uneven().shuffled(4, seed=2, epoch=5, balanced=True)) != order
    parts = [
        list(uneven().shuffled(4, seed=3, epoch=5, balanced=True, part=lambda _, first=first: np.arange(first, 2, 2)))
        for first in (0, 1)
    ]
    by_part = [torch.cat([(255 * inputs).round().flatten() for inputs, _ in part]).int().tolist() for part in parts]
    assert by_part[0] == [order[place] for place in range(0, 50, 4)]
    assert by_part[1] == [order[place] for place in range(1, 50, 4)]


@pytest.mark.parametrize("counts", [(5,), (1, 1), (1, 30)])
def test_balanced_sampling_of_few_classes_and_images(counts: tuple[int, ...]) -> None:
    found = labels_of(uneven(counts).shuffled(3, seed=0, epoch=0, balanced=True))
    assert len(found) == sum(counts)
    assert set(found) <= {2 * label for label in range(len(counts))}
