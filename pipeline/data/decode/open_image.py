"""Opens picture files with Pillow for the prepared set, and describes every kind of damage."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.archive import Payload, Unreadable
from pipeline.data.decode.pictures import TURNS, UndecodableImage, with_picture
from pipeline.files.user_files import why_unreadable

Size = tuple[int, int]
"""(H, W) of an upright picture in pixels."""
Content = Payload | NDArray[np.uint8]
"""A file, or the pixels (H, W, 3) of a picture from a set without picture files."""


_Result = TypeVar("_Result")


def open_image(payload: Content, decode: Callable[[Image.Image], _Result]) -> _Result:
    """Returns the result of `decode` for a picture file, or for pixels.

    Args:
        payload: The file, or its pixels.
        decode: Called with the opened picture.

    Raises:
        UndecodableImage: If anything is wrong with the file; the message gives the reason.
    """
    if isinstance(payload, Unreadable):
        raise UndecodableImage(payload.reason)
    if isinstance(payload, np.ndarray):
        return decode(Image.fromarray(payload))
    if isinstance(payload, str) and (why := why_unreadable(payload)) is not None:
        raise UndecodableImage(why)
    most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
    return with_picture(payload, decode, f"more than {most} million pixels (a decompression bomb?)", bombs="error")


def upright_size(width: int, height: int, turn: Image.Transpose | None) -> Size:
    """Returns (H, W) after the turn.

    Args:
        width: Of the picture as stored, in pixels.
        height: Of the picture as stored, in pixels.
        turn: Transposition that makes the picture upright, or None.
    """
    lies = turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
    return (width, height) if lies else (height, width)
