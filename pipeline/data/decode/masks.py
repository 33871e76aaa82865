"""Masks of pictures: read from files of several meanings, or drawn from boxes; cut and resized as the pictures are."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.decode.open_image import Content, Size, UnreadableImage, open_image, upright_size
from pipeline.data.decode.pictures import central_square, loaded_turn

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of a picture as it is to be looked at; right and bottom are outside."""
Meaning = Literal["object", "trimap", "classes"]
"""How a mask file is read; see `decode_mask`."""


SMOOTH = "a mask with greys beside 255 (smoothed edges?): they are the object, and 255 is undecided"
"""What is remarked of one that was most likely meant to be of 0 and 255 alone."""


def decode_mask(
    payload: Content, side: int, meaning: Meaning = "object", *, remarks: list[str] | None = None
) -> tuple[NDArray[np.uint8], Size]:
    """A mask as (side, side) uint8: 0 background, 1 object, 255 undecided; and its own size.

    Values are grey levels, or the numbers of a palette's colours. meaning, "object": in a file whose only values are 0
    and 255, 255 is the object; in any other 255 is undecided, and everything between is the object; in one that is
    transparent in part, the rest is the object. "trimap": 1 object, 2 background, 3 undecided. "classes": 0
    background, 255 undecided, the rest numbers of classes.

    Raises:
        UnreadableImage: as `decode_image`; a trimap with other values; a mask beside transparency.
    """

    def decode(image: Image.Image) -> tuple[NDArray[np.uint8], Size]:
        turn = loaded_turn(image)
        plain = image if image.mode in ("L", "P") or image.mode.startswith("I") else image.convert("L")
        values = np.asarray(plain)
        cut_out = _cut_out(image, values) if meaning == "object" else None
        found = _meant(values, meaning) if cut_out is None else cut_out
        if remarks is not None:
            remarks.extend(_remarks(found))
            if cut_out is not None:
                remarks.append("a mask of what is not transparent (a cut-out)")
            elif meaning == "object" and image.mode != "P" and _is_smooth(values):
                remarks.append(SMOOTH)
        square = Image.fromarray(found).resize((side, side), Image.Resampling.NEAREST, box=central_square(image.size))
        upright = square if turn is None else square.transpose(turn)
        return np.asarray(upright, dtype=np.uint8), upright_size(*image.size, turn)

    return open_image(payload, decode)


def _cut_out(image: Image.Image, values: NDArray[np.integer]) -> NDArray[np.uint8] | None:
    """1 where a picture that was cut out of its background is, 0 where it is transparent; None: it is opaque."""
    if image.mode not in ("RGBA", "LA", "PA"):
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if (alpha == 255).all():
        return None
    kept = alpha > 127
    if np.unique(values[kept]).tolist() == [0, 255]:
        raise UnreadableImage("is transparent in part, and black and white in the rest: save it without transparency")
    return kept.astype(np.uint8)


def _remarks(found: NDArray[np.uint8]) -> list[str]:
    if (found == 1).all():
        return ["a mask that is object all over"]
    if not (found == 1).any():
        return ["a mask without object" if (found == 0).any() else "a mask that is undecided all over"]
    return []


def _is_smooth(values: NDArray[np.integer]) -> bool:
    """Whether a mask of 0 and 255 was meant, whose edges were smoothed: numbers of objects begin at 1."""
    return bool((values == 255).any() and ((values >= 32) & (values < 255)).any())


def draw_boxes(boxes: Sequence[Box], size: Size, side: int) -> NDArray[np.uint8] | str:
    """A mask (side, side) uint8 of a picture of that size: 1 in a box, 0 outside; or what is wrong with the boxes."""
    height, width = size
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            return f"box {left:g} {top:g} {right:g} {bottom:g} is empty or leaves the picture, {width} x {height}"
    start_x, start_y, end_x, _ = central_square((width, height))
    centres = (np.arange(side) + 0.5) * (end_x - start_x) / side
    mask = np.zeros((side, side), dtype=np.uint8)
    for left, top, right, bottom in boxes:
        rows = (centres + start_y >= top) & (centres + start_y < bottom)
        columns = (centres + start_x >= left) & (centres + start_x < right)
        mask[np.ix_(rows, columns)] = 1
    return mask


def _meant(values: NDArray[np.integer], meaning: Meaning) -> NDArray[np.uint8]:
    if meaning == "trimap":
        if not np.isin(values, (1, 2, 3)).all():
            raise UnreadableImage("a trimap has the values 1, 2 and 3 alone")
        return np.choose(values - 1, np.array([1, 0, 255], dtype=np.uint8))
    undecided = values == 255
    if meaning == "object" and not (values[~undecided] != 0).any():
        undecided = np.zeros_like(undecided)
    return np.where(undecided, np.uint8(255), (values != 0).astype(np.uint8))
