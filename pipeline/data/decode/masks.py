"""Masks of pictures, read from files of several kinds or drawn from boxes, and resized like their pictures."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.decode.open_image import Content, Size, open_image, upright_size
from pipeline.data.decode.pictures import UndecodableImage, central_square, loaded_turn

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the upright picture. Right and bottom are exclusive."""
Meaning = Literal["object", "trimap", "classes"]
"""How the values of a mask file are read; see `decode_mask`."""


SMOOTH = "a mask with greys between 0 and 255 (smoothed edges?), which count as object, while 255 counts as undecided"
"""Remark about a mask that was most likely meant to have only the values 0 and 255."""


def decode_mask(
    payload: Content, side: int, meaning: Meaning = "object", *, remarks: list[str] | None = None
) -> tuple[NDArray[np.uint8], Size]:
    """Decodes a mask.

    Values are grey levels, or the indices of a palette's colours. They are read by `meaning`:

        object   if the only values are 0 and 255, 255 is the object; otherwise 255 is undecided, and all values
                 from 1 to 254 are the object; in a file that is transparent in part, the rest is the object
        trimap   1 object, 2 background, 3 undecided
        classes  0 background, 255 undecided, all other values (numbers of classes) the object

    Args:
        payload: The file, or its pixels.
        side: Side of the square in pixels.
        meaning: How values are read.
        remarks: List to which remarks are appended; None: no remarks are made.

    Returns:
        The mask (side, side) uint8 with 0 background, 1 object, 255 undecided; and its size (H, W) before
        resizing.

    Raises:
        UndecodableImage: If the file cannot be decoded, a trimap has other values, or a transparent file is
            black and white in its opaque part.
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
                remarks.append("a mask made of the opaque part (a cut-out)")
            elif meaning == "object" and image.mode != "P" and _is_smooth(values):
                remarks.append(SMOOTH)
        square = Image.fromarray(found).resize((side, side), Image.Resampling.NEAREST, box=central_square(image.size))
        upright = square if turn is None else square.transpose(turn)
        return np.asarray(upright, dtype=np.uint8), upright_size(*image.size, turn)

    return open_image(payload, decode)


def _cut_out(image: Image.Image, values: NDArray[np.integer]) -> NDArray[np.uint8] | None:
    """Returns 1 in the opaque part of a picture and 0 in the transparent part, (H, W); None for an opaque picture.

    Raises:
        UndecodableImage: If the opaque part is black and white, as a mask of its own.
    """
    if image.mode not in ("RGBA", "LA", "PA"):
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if (alpha == 255).all():
        return None
    kept = alpha > 127
    if np.unique(values[kept]).tolist() == [0, 255]:
        raise UndecodableImage("is transparent in part, and black and white in the rest: save it without transparency")
    return kept.astype(np.uint8)


def _remarks(found: NDArray[np.uint8]) -> list[str]:
    if (found == 1).all():
        return ["a mask that is object all over"]
    if not (found == 1).any():
        return ["a mask without object" if (found == 0).any() else "a mask that is undecided all over"]
    return []


def _is_smooth(values: NDArray[np.integer]) -> bool:
    """Returns whether values look like a mask of 0 and 255 with smoothed edges; numbers of objects begin at 1."""
    return bool((values == 255).any() and ((values >= 32) & (values < 255)).any())


def draw_boxes(boxes: Sequence[Box], size: Size, side: int) -> NDArray[np.uint8] | str:
    """Draws the mask of a picture from boxes: 1 in a box, 0 outside.

    Args:
        boxes: Boxes in the upright picture.
        size: (H, W) of the picture.
        side: Side of the square in pixels.

    Returns:
        The mask (side, side) uint8, or a text that says what is wrong with a box.
    """
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
            raise UndecodableImage("has values other than 1, 2 and 3, the only ones of a trimap")
        return np.choose(values - 1, np.array([1, 0, 255], dtype=np.uint8))
    undecided = values == 255
    if meaning == "object" and not (values[~undecided] != 0).any():
        undecided = np.zeros_like(undecided)
    return np.where(undecided, np.uint8(255), (values != 0).astype(np.uint8))
