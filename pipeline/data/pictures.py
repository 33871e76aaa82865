"""What a registered model makes of one image: an encoded file, its base64 text, or numbers -> uint8 pixels.

This file travels with every registered model, beside its program: it needs Pillow and numpy, and imports nothing of
ours. `pipeline.data.decode`, which makes the training images, goes the same way by the same functions: turned as its
EXIF orientation says, laid on white where it is transparent, made RGB, cut to its central square, resized. Numbers are
taken as they are.
"""

import base64
import binascii
import io
import struct
import warnings
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Pillow knows more, among them some that start other programs or that nobody keeps photographs in."""

MOST_PIXELS = 50_000_000
"""Of one image, before it is decoded: a few bytes can ask for any amount of memory."""

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of EXIF's tag Orientation."""


class BadImage(ValueError):
    """One image that cannot be classified; says why. The others of its request can be."""


def read_image(given: Any, channels: int, side: int) -> np.ndarray:
    """One image as (H, W, C) uint8.

    given: bytes of a picture file, base64 text of such (a `data:` address too), or numbers 0 to 255 as (H, W, C) or,
    for one channel, (H, W). Files come out as (side, side, C).

    Raises:
        BadImage: it is none of these, damaged, empty, too large, or has other channels.
    """
    if isinstance(given, str):
        given = _from_base64(given)
    if isinstance(given, bytes | bytearray | memoryview):
        return _decoded(bytes(given), channels, side)
    return _numbers(given, channels)


def _from_base64(text: str) -> bytes:
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadImage("neither numbers nor base64 of a picture file") from None


def _decoded(payload: bytes, channels: int, side: int) -> np.ndarray:
    if channels not in (1, 3):
        raise BadImage(f"this model takes {channels} channels, which picture files do not have; give numbers")
    if not payload:
        raise BadImage("an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(payload), formats=FORMATS) as image:
                _require_size(image.height, image.width)
                return _square(image, channels, side)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not a picture, or of a kind that is not read") from None
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MOST_PIXELS:,} pixels") from None
    except Exception as error:  # decoders meet damaged bytes with errors of any type
        raise BadImage(f"damaged ({str(error) or type(error).__name__})") from None


def _square(image: Image.Image, channels: int, side: int) -> np.ndarray:
    draft(image, side)
    square = upright_square(image, side, loaded_turn(image))
    return np.asarray(square) if channels == 3 else np.asarray(square.convert("L"))[..., None]


def draft(image: Image.Image, side: int) -> None:
    """JPEG can be decoded at an eighth to a half of its size; twice the asked size leaves the resizing its quality."""
    image.draft(None, (2 * side, 2 * side))


def loaded_turn(image: Image.Image) -> Image.Transpose | None:
    """Decode the pixels, and say how they must be turned. Pillow turns TIFFs by itself, and then says so."""
    image.load()
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        return None  # what else the camera noted is damaged; the picture is not


def central_square(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the largest square in the middle. size: (W, H)."""
    width, height = size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def upright_square(image: Image.Image, side: int, turn: Image.Transpose | None) -> Image.Image:
    """The central square of a loaded picture, RGB, side x side, turned.

    Raises:
        BadImage: its pixels are of a kind whose range is unknown.
    """
    square = _as_rgb(image).resize((side, side), Image.Resampling.BICUBIC, box=central_square(image.size))
    return square if turn is None else square.transpose(turn)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("its pixels are fractions, whose range is unknown; save it with 8 bits a channel")
    if image.mode.startswith("I"):
        # Sixteen bits of grey, which Pillow would clip at 255.
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(values // 256 if values.max() > 255 else values, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _numbers(given: Any, channels: int) -> np.ndarray:
    wanted = f"needed: whole numbers 0 to 255 as (H, W, {channels})"
    try:
        # Of JSON come lists, or arrays of objects that hold them.
        pixels = np.array(given.tolist() if isinstance(given, np.ndarray) and given.dtype == object else given)
    except ValueError:
        raise BadImage(f"{wanted}; its rows are of different lengths") from None
    if pixels.ndim == 2 and channels == 1:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] != channels or 0 in pixels.shape:
        raise BadImage(f"{wanted}, not {tuple(pixels.shape)}")
    _require_size(*pixels.shape[:2])
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise BadImage(f"{wanted}; it holds others")
    return pixels.astype(np.uint8)


def _require_size(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise BadImage(f"{height:,} x {width:,} pixels; at most {MOST_PIXELS:,} are taken")
