"""Conversion of one image for a registered model: an encoded file, its base64 text, or numbers become uint8 pixels.

This file travels with every registered model, beside its program. It needs Pillow and numpy, and imports no
other module of this project. A picture is turned by its EXIF orientation, composited on white if it is
transparent, converted to RGB, cut to its central square, and resized. `pipeline.data.decode.decode`, which
makes the training images, uses the same functions. Numbers are used unchanged.
"""

import base64
import binascii
import io
import os
import struct
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Formats that are read. Pillow supports more; some of these start other programs, and some are not used for
photographs.
"""

MOST_PIXELS = 50_000_000
"""Largest image in pixels, checked before decoding, since a small file may decode to any amount of memory."""

ORIENTATION = 0x0112
"""EXIF's tag Orientation."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that makes a picture upright, by the value of EXIF's tag Orientation."""


PNG = b"\x89PNG\r\n\x1a\n"
PROFILE, TEXTS = (b"iCCP",), (b"iCCP", b"zTXt", b"iTXt", b"tEXt")
"""Chunks of a PNG with its colour profile and texts. Pillow rejects the whole file if one of them is large."""

BITS_PER_SAMPLE, WHITE_OR_BLACK_FIRST, SAMPLE_FORMAT, HIGHEST = 258, 262, 339, (341, 281)
"""Tags of TIFF: BitsPerSample, PhotometricInterpretation, SampleFormat, SMaxSampleValue and MaxSampleValue."""
UNSIGNED, SIGNED = 1, 2
SIXTEEN_BITS = 65_535

_Result = TypeVar("_Result")


class UndecodableImage(ValueError):
    """An image that cannot be read, with the reason. Other images of a request, or of a set, are not affected."""


class Depth(NamedTuple):
    """Meaning of the values of a picture with more than 8 bits a channel: 0 is black, 2**bits - 1 is white.

    Attributes:
        bits: Bits a channel.
        declared: Whether the file or the user states the depth; otherwise it is the size of the stored
            values.
        is_grey: Whether the picture is grey. Of 16-bit colours Pillow returns only the upper 8 bits.
        scaled_from: White level of a PGM file whose values Pillow has scaled to 0 .. 65,535, to scale them
            back; None for other files.
    """

    bits: int
    declared: bool = False
    is_grey: bool = True
    scaled_from: int | None = None

    @property
    def white(self) -> int:
        """Largest value at this depth, which means white: 2**bits - 1."""
        return (1 << self.bits) - 1


def read_image(given: Any, channels: int, side: int, bit_depth: int | None = None) -> np.ndarray:
    """Returns one image as (H, W, C) uint8; files as (side, side, C).

    Args:
        given: Bytes of a picture file, its base64 text (a `data:` address, too), or numbers 0 to 255 as (H,
            W, C) or, for one channel, (H, W).
        channels: Channels C that the model takes.
        side: Side in pixels to which files are resized.
        bit_depth: Bits of grey pictures of more than 8 bits; None: each file's own depth.

    Raises:
        UndecodableImage: If the input is none of these, is damaged, empty or too large, or has other
            channels.
    """
    if isinstance(given, str):
        given = _from_base64(given)
    if isinstance(given, bytes | bytearray | memoryview):
        return _decoded(bytes(given), channels, side, bit_depth)
    return _numbers(given, channels)


def _from_base64(text: str) -> bytes:
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UndecodableImage("neither numbers nor base64 of a picture file") from None


def _decoded(payload: bytes, channels: int, side: int, bit_depth: int | None) -> np.ndarray:
    """Returns the pixels of a picture file, (side, side, C).

    Args:
        payload: Bytes of the file.
        channels: Channels that the model takes.
        side: Side of the result in pixels.
        bit_depth: As for `read_image`.
    """
    if channels not in (1, 3):
        raise UndecodableImage(f"this model takes {channels} channels, which picture files do not have; give numbers")
    return with_picture(
        payload, lambda image: _square(image, channels, side, bit_depth), f"more than {MOST_PIXELS:,} pixels"
    )


def with_picture(
    content: bytes | str,
    decode: Callable[[Image.Image], _Result],
    too_large: str,
    bombs: Literal["ignore", "error"] = "ignore",
) -> _Result:
    """Returns the result of `decode` for a picture file, with every error turned into a reason.

    Args:
        content: Bytes of the file, or its path.
        decode: Called with the opened picture, up to three times.
        too_large: Reason if the picture has more pixels than Pillow's limit.
        bombs: Whether to ignore Pillow's warning, which it gives at half of its limit, or to treat it as an error.

    Raises:
        UndecodableImage: If anything is wrong with the file.
    """
    try:
        if not (len(content) if isinstance(content, bytes) else os.stat(content).st_size):
            raise UndecodableImage("an empty file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter(bombs, Image.DecompressionBombWarning)
            return _opened(content, decode)
    except UndecodableImage:
        raise
    except UnidentifiedImageError:
        raise UndecodableImage("not a picture, or of a kind that is not read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UndecodableImage(too_large) from None
    except Exception as error:  # decoders raise errors of any type at damaged bytes
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UndecodableImage(f"damaged ({said or type(error).__name__})") from None


def _opened(content: bytes | str, decode: Callable[[Image.Image], _Result]) -> _Result:
    """Returns the result of `decode` for a picture file.

    If Pillow rejects a PNG for the size of its colour profile or texts, the file is read without them: they
    hold no pixels.

    Args:
        content: Bytes of the file, or its path.
        decode: Called with the opened picture, up to three times.

    Raises:
        Exception: Any error of Pillow or `decode`.
    """
    for without in ((), PROFILE, TEXTS):
        try:
            file = io.BytesIO(_bare(content, without)) if without or isinstance(content, bytes) else content
            with Image.open(file, formats=FORMATS) as image:
                return decode(image)
        except UndecodableImage:
            raise
        except ValueError:
            if without == TEXTS or not _is_png(content):
                raise
    raise AssertionError  # the last iteration returns or raises


def _is_png(content: bytes | str) -> bool:
    if isinstance(content, bytes):
        return content.startswith(PNG)
    with open(content, "rb") as file:
        return file.read(len(PNG)) == PNG


def _bare(content: bytes | str, without: tuple[bytes, ...]) -> bytes:
    """Returns the bytes of a PNG without chunks of some kinds. Bytes after a torn chunk are returned unchanged.

    Args:
        content: Bytes of the file, or its path.
        without: Kinds of chunks to leave out.
    """
    if isinstance(content, str):
        with open(content, "rb") as file:
            content = file.read()
    if not without:
        return content
    kept, place = [content[: len(PNG)]], len(PNG)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] not in without:
            kept.append(content[place:end])
        place = end
    return b"".join([*kept, content[place:]])


def _square(image: Image.Image, channels: int, side: int, bit_depth: int | None) -> np.ndarray:
    """Returns the central square of an opened picture, (side, side, C).

    Args:
        image: The picture.
        channels: 1 or 3.
        side: Side of the result in pixels.
        bit_depth: As for `read_image`.
    """
    _require_size(image.height, image.width)
    depth = depth_of(image, bit_depth)
    draft(image, side)
    square = upright_square(image, side, loaded_turn(image), depth)
    if (
        depth is not None
        and depth.is_grey
        and not depth.declared
        and (high := highest_of(image, depth)) <= depth.white / 2
    ):
        raise UndecodableImage(
            f"grey of {depth.bits} bits with no value above {high:,} of {depth.white:,}: it would be dark, or black, "
            "and the model's training set, which had no such pictures, does not say what the values mean; save it with "
            "8 bits"
        )
    return np.asarray(square) if channels == 3 else np.asarray(square.convert("L"))[..., None]


def depth_of(image: Any, bit_depth: int | None = None) -> Depth | None:
    """Returns the depth of a picture that is open but not loaded yet; None for 8 bits a channel or fewer.

    The depth is that of the format, or the one stated by the tags of a TIFF or the highest value of a PGM. It
    does not depend on the picture's own values: otherwise a picture would become as bright as another that is
    twice as bright. PNG's sBIT is ignored, since it describes fewer bits that are still scaled to the whole
    range.

    Args:
        image: The picture.
        bit_depth: Depth that applies whatever the file states; None: the file's own depth.

    Raises:
        UndecodableImage: If nothing states the range of the values, or the file contradicts `bit_depth`.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        if bit_depth is None:
            raise UndecodableImage(
                "its pixels are fractions, whose range is unknown; save it with 8 or 16 bits, or set prepare.bit_depth "
                "(to 1 if the fractions are from 0 to 1)"
            )
        return Depth(bit_depth, declared=True)
    if image.mode.startswith("I"):
        if image.format == "PPM" and (white := _white_of_pgm(image.tile[0])) != SIXTEEN_BITS:
            return _pgm_depth(white, bit_depth)
        if bit_depth is not None:
            return Depth(bit_depth, declared=True)
        if image.format != "TIFF":
            return Depth(16)
        return _tiff_depth(tags)
    if image.format not in ("PNG", "TIFF") or not any(";16" in _raw_mode(tile) for tile in image.tile):
        return None
    if bit_depth not in (None, 16):
        raise UndecodableImage(
            f"colours of 16 bits, of which the upper 8 are read, and prepare.bit_depth is {bit_depth}; save it with 8 "
            "bits a channel"
        )
    return Depth(16, declared=bit_depth is not None, is_grey=False)


def _raw_mode(tile: Any) -> str:
    """Returns the layout of the values in a tile of a picture's file, by Pillow's name."""
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _white_of_pgm(tile: Any) -> int:
    """Returns the white level in the header of a PGM file, by a tile of its picture."""
    arguments = tile[3]
    return int(arguments[1]) if isinstance(arguments, tuple) else SIXTEEN_BITS


def _pgm_depth(white: int, bit_depth: int | None) -> Depth:
    """Returns the depth of a PGM file that states its white level.

    With 16 bits, the values are left as Pillow scales them. With fewer bits, they are scaled back to those of
    the file.
    """
    bits = white.bit_length() if white & (white + 1) == 0 else 16
    if bit_depth not in (None, bits, 16):
        raise UndecodableImage(
            f"its header says that {white:,} is white, but with prepare.bit_depth {bit_depth} white is "
            f"{(1 << bit_depth) - 1:,}; save it anew with this value in its header"
        )
    return Depth(16, declared=True) if 16 in (bits, bit_depth) else Depth(bits, declared=True, scaled_from=white)


def _tiff_depth(tags: Any) -> Depth:
    """Returns the depth of a TIFF file by its tags."""
    room = int(tags.get(BITS_PER_SAMPLE, (16,))[0]) - (tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == SIGNED)
    for tag in HIGHEST:
        found = tags.get(tag)
        first = found[0] if isinstance(found, tuple) else found
        highest = int(first) if isinstance(first, int | float) and first == first // 1 else 0
        # The tag may also hold the highest value of this picture. Only 2**bits - 1 states a range.
        if 0 < highest < 2**room - 1 and highest & (highest + 1) == 0:
            return Depth(highest.bit_length(), declared=True)
    return Depth(room, declared=room not in (15, 16, 31, 32))


def highest_of(image: Image.Image, depth: Depth) -> int:
    """Returns the highest value of a loaded picture of more than 8 bits a channel.

    For colours, of which only the upper 8 bits are known, it is the highest value that they allow.
    """
    if depth.is_grey:
        return int(deep_values(image, depth).max())
    bands = (image if image.mode == "RGB" else image.convert("RGB")).split()
    return int(max(np.asarray(band).max() for band in bands)) << 8 | 255


def deep_values(image: Image.Image, depth: Depth) -> np.ndarray:
    """Returns the values (H, W) of a loaded grey picture of more than 8 bits, as stored in its file."""
    values = np.asarray(image)
    if depth.scaled_from is not None:
        return (values.astype(np.int64) * depth.scaled_from + SIXTEEN_BITS // 2) // SIXTEEN_BITS
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED and image.format == "TIFF":
        values = values.view(np.uint32)  # Pillow returns them as signed
    return values if image.mode == "F" else values.astype(np.int64)


def draft(image: Image.Image, side: int) -> None:
    """Lets a JPEG be decoded at a half to an eighth of its size, but no smaller than twice the side, for quality.

    Args:
        image: An opened picture that is not loaded yet; other formats are left unchanged.
        side: Side in pixels to which it will be resized.
    """
    image.draft(None, (2 * side, 2 * side))


def loaded_turn(image: Image.Image) -> Image.Transpose | None:
    """Loads the pixels, and returns the transposition that makes them upright, or None.

    Pillow turns TIFF files itself, and then reports no orientation.
    """
    image.load()
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        return None  # the metadata are damaged, but not the picture


def central_square(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of the largest central square.

    Args:
        size: (W, H) in pixels.
    """
    width, height = size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def upright_square(
    image: Image.Image, side: int, turn: Image.Transpose | None, depth: Depth | None = None
) -> Image.Image:
    """Returns the central square of a loaded picture, upright, RGB, resized to side x side.

    Args:
        image: The loaded picture.
        side: Side of the result in pixels.
        turn: Transposition that makes the picture upright, or None.
        depth: Result of `depth_of`, taken before the picture was loaded.

    Raises:
        UndecodableImage: If the picture has values outside the range of its depth.
    """
    square = _as_rgb(image, depth).resize((side, side), Image.Resampling.BICUBIC, box=central_square(image.size))
    return square if turn is None else square.transpose(turn)


def _as_rgb(image: Image.Image, depth: Depth | None) -> Image.Image:
    if depth is not None and depth.is_grey:
        grey = _to_eight_bits(image, depth)
        if isinstance(clear := image.info.get("transparency"), int):  # Pillow has no alpha channel for 16-bit grey
            grey[deep_values(image, depth) == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        if depth is not None and isinstance(clear := image.info.get("transparency"), tuple):
            # Pillow reduced the pixels to their upper 8 bits.
            image.info["transparency"] = tuple(value >> 8 for value in clear)
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(image: Image.Image, depth: Depth) -> np.ndarray:
    """Returns grey values as uint8, with the whole range of the depth mapped to 0 .. 255; Pillow would clip them
    at 255.

    Raises:
        UndecodableImage: If a value is outside the range of the depth, or no number.
    """
    values, white = deep_values(image, depth), depth.white
    if not np.isfinite(values).all():
        raise UndecodableImage("has pixels that are no numbers")
    low, high = values.min(), values.max()
    if low < 0 or high > white:
        beyond = f"below 0, such as {low:,}" if low < 0 else f"above {white:,}, such as {high:,}"
        raise UndecodableImage(f"has values {beyond}, but with {depth.bits} bits values are from 0 to {white:,}")
    if getattr(image, "tag_v2", {}).get(WHITE_OR_BLACK_FIRST) == 0:
        values = white - values
    if image.mode == "F":
        return np.rint(values * (255 / white)).astype(np.uint8)
    # The upper 8 bits are taken, as Pillow does for colours.
    return (values >> depth.bits - 8 if depth.bits >= 8 else values * 255 // white).astype(np.uint8)


def _numbers(given: Any, channels: int) -> np.ndarray:
    """Returns an image that was given as numbers, as (H, W, C) uint8.

    Args:
        given: Nested lists or an array of whole numbers from 0 to 255: (H, W, C), or (H, W) for one channel.
        channels: Number of channels C that the model requires.

    Raises:
        UndecodableImage: the shape, type or range is another one, or there are too many pixels.
    """
    wanted = f"needed: whole numbers 0 to 255 as (H, W, {channels})"
    try:
        # JSON gives lists, or arrays of objects that are lists.
        pixels = np.array(given.tolist() if isinstance(given, np.ndarray) and given.dtype == object else given)
    except ValueError:
        raise UndecodableImage(f"{wanted}; its rows are of different lengths") from None
    if pixels.ndim == 2 and channels == 1:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] != channels or 0 in pixels.shape:
        raise UndecodableImage(f"{wanted}, not {tuple(pixels.shape)}")
    _require_size(*pixels.shape[:2])
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise UndecodableImage(f"{wanted}; it holds others")
    return pixels.astype(np.uint8)


def _require_size(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise UndecodableImage(f"{height:,} x {width:,} pixels; at most {MOST_PIXELS:,} are taken")
