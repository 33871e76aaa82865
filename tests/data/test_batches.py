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
