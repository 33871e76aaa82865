"""Claims about the kernels of DeiT's recipe: each gives, image by image, what timm's operation on a PIL picture gives."""

import platform
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pictures

from pipeline.data.augment.pixel_kernels import augment_batch
from pipeline.data.augment.rand_augment import DRAWS, OPERATIONS, Operations, draw_operations

FILL = np.array([124, 7, 250], dtype=np.uint8)
TOLERANCE = 0 if platform.machine() == "x86_64" else 1
"""Grey levels. Elsewhere compilers may fuse multiplications and additions, in Pillow or in numba."""


def images(height: int, width: int) -> NDArray[np.uint8]:
    """Noise, and what is nasty: constant, black, white, one channel, two levels, one bright pixel, a ramp, dark noise."""
    rng = np.random.default_rng(height * 1000 + width)
    shape = (height, width, 3)
    noise = [rng.integers(0, 256, shape) for _ in range(6)]
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], shape)
    one_channel = np.zeros(shape)
    one_channel[..., 1] = rng.integers(0, 256, shape[:2])
    one_pixel = np.zeros(shape)
    one_pixel[height // 2, width // 2] = 255
    nasty = [np.full(shape, 77), np.zeros(shape), np.full(shape, 255), one_channel, one_pixel, ramp, rng.choice([0, 255], shape), rng.integers(3, 9, shape)]  # fmt: skip
    return np.stack([*noise, *nasty]).astype(np.uint8)


def whole(count: int, height: int, width: int, operation: int = -1, values: Any = (1, 0, 0, 0, 1, 0)) -> Operations:
    """Nothing but one operation, on every image."""
    boxes = np.broadcast_to(np.array([0, 0, height, width]), (count, 4)).copy()
    numbers = np.array([[operation, -1]] * count)
    return Operations(boxes, np.zeros(count, dtype=bool), numbers, np.broadcast_to(np.asarray(values, dtype=float), (count, 2, 6)).copy())  # fmt: skip


def close(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> bool:
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max(initial=0)) <= TOLERANCE


SIDES = [(32, 32), (17, 40), (3, 3), (2, 5), (1, 9), (1, 1)]


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_gives_what_timms_gives_at_every_magnitude(name: str, sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    given = images(*sides)
    operation = auto_augment.AugmentOp(name, prob=1.0, magnitude=9, hparams={"img_mean": tuple(FILL.tolist()), "interpolation": Image.Resampling.BICUBIC})  # fmt: skip
    number = OPERATIONS.index(name)
    for magnitude in (0.0, 0.4, 3.3, 7.5, 8.9, 9.2, 9.99):
        for sign in (0.2, 0.8):
            operation.magnitude = magnitude
            monkeypatch.setattr(auto_augment.random, "random", lambda sign=sign: sign)
            theirs = np.stack([np.asarray(operation(Image.fromarray(image))) for image in given])
            draws = np.zeros((1, DRAWS))
            draws[0, -8:] = [(number + 0.5) / 15, 0.0, 0.5, sign, 0.0, 1.0, 0.5, 0.5]
            monkeypatch.setattr("pipeline.data.augment.rand_augment.MAGNITUDE", magnitude)
            drawn = draw_operations(draws, sides, flip=True)
            assert drawn.operations.tolist() == [[number, -1]]
            ours = augment_batch(
                given, np.arange(len(given)), whole(len(given), *sides, number, drawn.values[0, 0]), FILL
            )
            assert close(ours, theirs), (magnitude, sign)


@pytest.mark.parametrize("sides", SIDES)
def test_crop_is_resized_as_pillow_does_it_and_mirrored(sides: tuple[int, int]) -> None:
    given = images(*sides)
    rng = np.random.default_rng(1)
    for mirrored in (False, True):
        for _ in range(25):
            tall, wide = (int(rng.integers(1, side + 1)) for side in sides)
            top, left = int(rng.integers(0, sides[0] - tall + 1)), int(rng.integers(0, sides[1] - wide + 1))
            theirs = [pictures.resized_crop(Image.fromarray(image), top, left, tall, wide, list(sides), InterpolationMode.BICUBIC) for image in given]  # fmt: skip
            shown = np.stack([np.asarray(pictures.hflip(each) if mirrored else each) for each in theirs])
            asked = whole(len(given), *sides)
            asked.boxes[:] = top, left, tall, wide
            asked.mirrored[:] = mirrored
            assert close(augment_batch(given, np.arange(len(given)), asked, FILL), shown), (top, left, tall, wide)


def test_grey_images_are_worked_on_as_coloured_ones() -> None:
    grey = images(20, 14)[..., :1]
    drawn = draw_operations(np.random.default_rng(0).random((len(grey), DRAWS)), (20, 14), flip=True)
    drawn.operations[:] = np.random.default_rng(1).integers(0, 15, drawn.operations.shape)
    drawn.values[..., 0] = np.clip(drawn.values[..., 0], 1, 4)
    rows = np.arange(len(grey))
    assert np.array_equal(
        augment_batch(grey, rows, drawn, FILL), augment_batch(np.repeat(grey, 3, axis=-1), rows, drawn, FILL)[..., :1]
    )


def test_each_image_has_changes_of_its_own_and_the_set_stays_as_it_is() -> None:
    given = images(16, 16)
    kept = given.copy()
    rows = np.array([3, 3, 0, 9, 3])
    drawn = draw_operations(np.random.default_rng(2).random((5, DRAWS)), (16, 16), flip=True)
    together = augment_batch(given, rows, drawn, FILL)
    for place, row in enumerate(rows):
        alone = Operations(*(each[place : place + 1] for each in (drawn.boxes, drawn.mirrored, drawn.operations, drawn.values)))  # fmt: skip
        assert np.array_equal(augment_batch(given, np.array([row]), alone, FILL)[0], together[place])
    assert not np.array_equal(together[0], together[1])
    assert np.array_equal(given, kept)


def test_images_are_cropped_then_mirrored_then_put_through_both_operations() -> None:
    given = np.repeat(images(24, 30), 6, axis=0)
    drawn = draw_operations(np.random.default_rng(5).random((len(given), DRAWS)), (24, 30), flip=True)
    ours = augment_batch(given, np.arange(len(given)), drawn, FILL)
    done = 0
    for index, image in enumerate(given):
        top, left, tall, wide = drawn.boxes[index].tolist()
        picture = pictures.resized_crop(Image.fromarray(image), top, left, tall, wide, [24, 30], InterpolationMode.BICUBIC)  # fmt: skip
        picture = pictures.hflip(picture) if drawn.mirrored[index] else picture
        for number, values in zip(drawn.operations[index].tolist(), drawn.values[index], strict=True):
            if number == OPERATIONS.index("Rotate") or number >= OPERATIONS.index("ShearX"):
                picture = picture.transform(picture.size, Image.Transform.AFFINE, values.tolist(), Image.Resampling.BICUBIC, fillcolor=tuple(FILL.tolist()))  # fmt: skip
            elif number >= 0:
                value = [] if number < 3 else [int(values[0])] if number < 7 else [float(values[0])]
                picture = auto_augment.NAME_TO_OP[OPERATIONS[number]](picture, *value)
        assert close(ours[index], np.asarray(picture))
        done += (drawn.operations[index] >= 0).all()
    assert done > 10
