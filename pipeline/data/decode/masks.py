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


ALL_OBJECT = "a mask that is object all over"
TRIMAP = "a mask that is object all over, with only the values 1, 2 and 3 (a trimap?)"
NO_OBJECT = "a mask without object"
ALL_UNDECIDED = "a mask that is undecided all over"
SMOOTH = "a black and white mask with smoothed edges, whose object is where it is 128 or more"

ADVICE = {
    ALL_OBJECT: "Attention cannot be scored against it: 0 is background, 1 to 254 object, 255 undecided",
    TRIMAP: "Attention cannot be scored against it: convert it to 0 background, 1 object, 255 undecided",
    NO_OBJECT: "Attention cannot be scored against it",
    ALL_UNDECIDED: "Attention cannot be scored against it: beside other values than 0 and 255, 255 is undecided",
}
"""What a remark means, and what to do, by remark. Masks with these remarks tell nothing of where the object is."""

FIRST_GREY = 32
"""Smallest value of a smoothed edge that is told from the numbers of classes, which begin at 1."""
WHITE = 240
"""Smallest value of the white of a mask that blurring or JPEG has changed."""
FEW, MOST = 0.1, 0.5
"""Shares of the grey pixels that lie in squares of one value: below the first, edges are smoothed; from the second on,
values are numbers of classes."""
HALF = 128
"""Smallest value of the object in a mask with smoothed edges."""


def decode_mask(
    payload: Content, side: int, meaning: Meaning = "object", *, remarks: list[str] | None = None
) -> tuple[NDArray[np.uint8], Size]:
    """Decodes a mask.

    Values are grey levels, or the indices of a palette's colours. They are read by `meaning`:

        object   if the only values are 0 and 255, 255 is the object; if a grey file is black and white with smoothed
                 edges (`_is_smooth`), values from 128 on are the object; otherwise 255 is undecided, and all values
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
        UndecodableImage: If the file cannot be decoded, a trimap has other values, a transparent file is black and
            white in its opaque part, or greys may be smoothed edges as well as numbers of classes.
    """

    def decode(image: Image.Image) -> tuple[NDArray[np.uint8], Size]:
        turn = loaded_turn(image)
        plain = image if image.mode in ("L", "P") or image.mode.startswith("I") else image.convert("L")
        values = np.asarray(plain)
        cut_out = _cut_out(image, values) if meaning == "object" else None
        smooth = meaning == "object" and cut_out is None and image.mode != "P" and _is_smooth(values)
        found = (values >= HALF).astype(np.uint8) if smooth else _meant(values, meaning) if cut_out is None else cut_out
        if remarks is not None:
            remarks.extend(_remarks(found, values))
            if cut_out is not None:
                remarks.append("a mask made of the opaque part (a cut-out)")
            elif smooth:
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


def _remarks(found: NDArray[np.uint8], values: NDArray[np.integer]) -> list[str]:
    """Returns remarks about a mask that tells nothing of where the object is.

    Args:
        found: The mask, with 0 background, 1 object, 255 undecided.
        values: The values of its file.
    """
    if (found == 1).all():
        there = np.unique(values)
        return [TRIMAP if len(there) > 1 and there[-1] <= 3 else ALL_OBJECT]
    if not (found == 1).any():
        return [NO_OBJECT if (found == 0).any() else ALL_UNDECIDED]
    return []


def _is_smooth(values: NDArray[np.integer]) -> bool:
    """Returns whether values are those of a black and white mask with smoothed edges, not numbers of classes with 255
    for undecided.

    Both have greys beside 255. Numbers of classes fill areas, so nearly all of their pixels lie in squares of one
    value; smoothed edges change from pixel to pixel, and it is the white that has such squares.

    Args:
        values: Values of a mask without a palette, (H, W).

    Raises:
        UndecodableImage: If it may be either.
    """
    greys, white = (values > 0) & (values < 255), values >= WHITE
    if not white.any() or not (values[greys] >= FIRST_GREY).any():
        return False
    flat = _in_squares(values)
    share = float(flat[greys].mean())
    if share >= MOST:
        return False
    if share < FEW and flat[white].any():
        return True
    raise UndecodableImage(
        "has greys beside white, which may be smoothed edges (then white is object) or numbers of classes (then 255 is "
        "undecided): save it with the values 0 and 255 alone, or with a palette (docs/own-images/decoding.md)"
    )


def _in_squares(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Returns which pixels lie in a square of 3 x 3 pixels of one value, (H, W)."""
    inside = np.zeros(values.shape, dtype=np.bool_)
    if min(values.shape) < 3:
        return inside
    right, below = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    rows, columns = right[:, 1:] & right[:, :-1], below[1:] & below[:-1]
    squares = rows[:-2] & rows[1:-1] & rows[2:] & columns[:, 1:-1]
    height, width = squares.shape
    for down in range(3):
        for across in range(3):
            inside[down : down + height, across : across + width] |= squares
    return inside


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
