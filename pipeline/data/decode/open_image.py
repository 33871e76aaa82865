"""Opens picture files with Pillow for the prepared set, and describes every kind of damage."""

import os
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.data.archive import Payload, Unreadable
from pipeline.data.decode.pictures import TURNS, UndecodableImage, with_picture
from pipeline.files.user_files import why_unreadable

Size = tuple[int, int]
"""(H, W) of an upright picture in pixels."""
Content = Payload | NDArray[np.uint8]
"""A file, or the pixels (H, W, 3) of a picture from a set without picture files."""


_Result = TypeVar("_Result")


class UnreadableImage(Exception):
    """A file that cannot be decoded as a picture; the message gives the reason."""


def open_image(payload: Content, decode: Callable[[Image.Image], _Result]) -> _Result:
    """Returns the result of `decode` for a picture file, or for pixels.

    Args:
        payload: The file, or its pixels.
        decode: Called with the opened picture.

    Raises:
        UnreadableImage: If anything is wrong with the file; the message gives the reason.
    """
    if isinstance(payload, Unreadable):
        raise UnreadableImage(payload.reason)
    if isinstance(payload, np.ndarray):
        return decode(Image.fromarray(payload))
    if isinstance(payload, str) and (why := why_unreadable(payload)) is not None:
        raise UnreadableImage(why)
    try:
        if not (len(payload) if isinstance(payload, bytes) else os.stat(payload).st_size):
            raise UnreadableImage("an empty file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return with_picture(payload, decode)
    except UnreadableImage:
        raise
    except UndecodableImage as error:
        raise UnreadableImage(str(error)) from None
    except UnidentifiedImageError:
        raise UnreadableImage("not a picture, or of a kind that is not read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UnreadableImage(f"more than {most} million pixels (a decompression bomb?)") from None
    except Exception as error:
        # Decoders raise errors of any type at damaged bytes.
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableImage(f"damaged ({said or type(error).__name__})") from None


def upright_size(width: int, height: int, turn: Image.Transpose | None) -> Size:
    """Returns (H, W) after the turn.

    Args:
        width: Of the picture as stored, in pixels.
        height: Of the picture as stored, in pixels.
        turn: Transposition that makes the picture upright, or None.
    """
    lies = turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
    return (width, height) if lies else (height, width)
