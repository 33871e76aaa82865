"""Claims about masks in batches: each stays with its image and is moved as it is, by the nearest pixel."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.augment.augment import Augmentation
from pipeline.data.augment.mask_kernels import shift_masks
from pipeline.data.augment.rand_augment import DRAWS, OPERATIONS, ROTATE, draw_operations
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared

CPU = torch.device("cpu")
LEVELS = np.array([40, 215], dtype=np.uint8)
"""Of background and object in an image that shows nothing but its mask."""


def shapes(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Masks (count, height, width) of a rectangle each."""
    rng = np.random.default_rng(0)
    masks = np.zeros((count, height, width), dtype=np.uint8)
    for mask in masks:
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[top : top + height // 2, left : left + width // 2] = 1
    return masks


def batches(masks: NDArray[np.uint8] | None, images: NDArray[np.uint8]) -> ImageBatches:
    prepared = Prepared(images, np.arange(len(images), dtype=np.int64), masks, {})
    scale = Standardisation((0.0,), (1 / 255,))
    return ImageBatches(prepared, range(2, len(images)), scale, CPU)


def drawn(augmentation: Augmentation | None, height: int = 32, width: int = 24) -> list[tuple[Any, Any, Any]]:
    masks = shapes(40, height, width)
    ours = batches(masks, LEVELS[masks][..., None])
    plain = list(ours.shuffled(7, seed=1, epoch=2, augmentation=augmentation))
    found = list(ours.shuffled(7, seed=1, epoch=2, augmentation=augmentation, masks=True))
    for (inputs, labels), (others, answers, _) in zip(plain, found, strict=True):
        assert torch.equal(inputs, others)
        assert torch.equal(labels, answers)
    return [(image[0], int(label), mask) for inputs, labels, made in found for image, label, mask in zip(inputs, labels, made, strict=True)]  # fmt: skip


@pytest.mark.parametrize("augmentation", [None, Augmentation("light"), Augmentation(erasing=1e-9)])
def test_masks_follow_shifts_and_mirrors_to_the_pixel(augmentation: Augmentation | None) -> None:
    before = shapes(40, 32, 24)
    found = drawn(augmentation)
    assert sorted(label for _, label, _ in found) == list(range(2, 40))
    for image, label, mask in found:
        assert (mask.dtype, mask.shape) == (torch.uint8, (32, 24))
        assert torch.equal(image > 128, mask == 1)
        assert augmentation is None or augmentation.kind == "light" or np.array_equal(mask, before[label])


def test_masks_follow_crops_turns_and_shears(monkeypatch: pytest.MonkeyPatch) -> None:
    # Colours are left alone, so that object and background can still be told apart in the images.
    geometric = np.array([ROTATE, *range(OPERATIONS.index("ShearX"), 15)])
    monkeypatch.setattr("pipeline.data.augment.rand_augment.OPERATIONS", tuple(OPERATIONS[each] for each in geometric))
    numbers = np.append(geometric, -1)

    def renumbered(draws: Any, sides: Any, *, flip: bool) -> Any:
        import pipeline.data.augment.rand_augment as module

        plain = draws.copy()
        for layer in range(2):
            which = (plain[:, 41 + 4 * layer] * 5).astype(int)
            plain[:, 41 + 4 * layer] = (numbers[which] + 0.5) / 15
        with monkeypatch.context() as patched:
            patched.setattr(module, "OPERATIONS", OPERATIONS)
            return draw_operations(plain, sides, flip=flip)

    monkeypatch.setattr("pipeline.data.augment.augment.draw_operations", renumbered)
    agreed, outside = [], 0
    for image, _, mask in drawn(Augmentation("deit")):
        known = mask != 255
        outside += int((~known).sum())
        agreed.append(((image > 128) == (mask == 1))[known].float().mean().item())
    assert min(agreed) > 0.85  # bicubic edges are not nearest ones
    assert np.mean(agreed) > 0.97
    assert outside > 0


def test_each_mask_is_resized_and_turned_as_pillow_does_it() -> None:
    masks = np.random.default_rng(0).integers(0, 2, (200, 30, 22), dtype=np.uint8)
    asked = draw_operations(np.random.default_rng(1).random((200, DRAWS)), (30, 22), flip=True)
    ours = shift_masks(masks, np.arange(200), asked)
    equal, moved = [], set()
    for index, mask in enumerate(masks):
        top, left, tall, wide = asked.boxes[index].tolist()
        picture = Image.fromarray(mask).crop((left, top, left + wide, top + tall)).resize((22, 30), Image.Resampling.NEAREST)  # fmt: skip
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if asked.mirrored[index] else picture
        for number, values in zip(asked.operations[index], asked.values[index], strict=True):
            if number == ROTATE or number >= OPERATIONS.index("ShearX"):
                picture = picture.transform((22, 30), Image.Transform.AFFINE, values.tolist(), Image.Resampling.NEAREST, fillcolor=255)  # fmt: skip
                moved.add(index)
        equal.append((np.asarray(picture) == ours[index]).mean())
    assert all(share == 1.0 for index, share in enumerate(equal) if index not in moved)
    # In transforms Pillow counts places in fixed point, and where two pixels are equally near may take the other one.
    assert min(equal) > 0.95
    assert len(moved) > 20
    assert 255 in ours


def test_set_without_masks_is_refused() -> None:
    images = LEVELS[shapes(4, 8, 8)][..., None]
    with pytest.raises(ValueError, match="has no masks"):
        next(batches(None, images).shuffled(2, seed=0, epoch=0, masks=True))
