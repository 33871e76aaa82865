"""Claims about decoding: pictures of any kind come out upright, square and RGB; what is none says why."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from support.picture_sets import encoded, picture

from pipeline.data.archive import Unreadable
from pipeline.data.decode.decode import DecodeTask, decode_all, decode_image
from pipeline.data.decode.masks import ALL_OBJECT, NO_OBJECT, SMOOTH, TRIMAP, decode_mask
from pipeline.data.decode.pictures import ORIENTATION, UndecodableImage, read_image

SIDE = 16


def quarters(size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2, 0] = 255
    pixels[: height // 2, width // 2 :, 1] = 255
    pixels[height // 2 :, : width // 2, 2] = 255
    pixels[height // 2 :, width // 2 :] = 255
    return Image.fromarray(pixels)


def corners(pixels: NDArray[np.uint8]) -> list[list[bool]]:
    """Which channels are bright, near the four corners."""
    near, far = SIDE // 4, 3 * SIDE // 4
    return [(pixels[row, column] > 128).tolist() for row in (near, far) for column in (near, far)]


RED, GREEN, BLUE, WHITE = [True, False, False], [False, True, False], [False, False, True], [True] * 3
UPRIGHT = [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("size", [(32, 32), (16, 16), (200, 200), (8, 8)])
def test_every_kind_of_file_is_resized(kind: str, size: tuple[int, int]) -> None:
    pixels, found = decode_image(encoded(quarters(size), kind), SIDE)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    assert corners(pixels) == UPRIGHT
    assert found == size


def test_picture_of_the_asked_size_is_not_touched() -> None:
    content = picture(3, (SIDE, SIDE))
    np.testing.assert_array_equal(decode_image(content, SIDE)[0], np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert corners(decode_image(encoded(quarters().convert(mode), kind), SIDE)[0]) == UPRIGHT


@pytest.mark.parametrize(("mode", "value"), [("L", 100), ("1", 1), ("I;16", 100 * 256), ("LA", (100, 255))])
def test_grey_pictures_have_three_equal_channels(mode: str, value: int) -> None:
    pixels, _ = decode_image(encoded(Image.new(mode, (20, 20), value)), SIDE)
    assert np.unique(pixels).tolist() == [255 if mode == "1" else 100]
    assert pixels.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_pixels_are_laid_on_white(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (20, 20), 0)
        image.putpalette([255, 0, 0])
        content = encoded(image, transparency=0)
    else:
        content = encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0)))
    assert (decode_image(content, SIDE)[0] == 255).all()


def test_long_pictures_are_cut_to_their_middle() -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 200
    assert (decode_image(encoded(Image.fromarray(pixels)), 20)[0] == 200).all()
    assert (decode_image(encoded(Image.fromarray(pixels.transpose(1, 0, 2))), 20)[0] == 200).all()


def test_shrinking_averages() -> None:
    checks = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(decode_image(encoded(Image.fromarray(checks)), SIDE)[0].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
def test_orientation_that_the_camera_noted_is_undone(orientation: int, kind: str) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    upright = quarters((40, 32))
    stored = upright.transpose(turned[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels, size = decode_image(encoded(stored, kind, exif=exif), SIDE)
    assert corners(pixels) == UPRIGHT
    assert size == (32, 40)


def test_large_photographs_come_out_as_if_decoded_in_full() -> None:
    smooth = Image.fromarray((np.add.outer(np.arange(1024), np.arange(1024)) // 8).astype(np.uint8))
    jpeg, png = (decode_image(encoded(smooth.convert("RGB"), kind), SIDE) for kind in ("JPEG", "PNG"))
    assert np.abs(jpeg[0].astype(int) - png[0].astype(int)).max() <= 3
    assert jpeg[1] == png[1] == (1024, 1024)


def _huge_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "an empty file"),
        (b"these are words", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (picture(0, (64, 64))[:900], "damaged"),
        (picture(0, (64, 64), "JPEG")[:900], "damaged"),
        (picture(0, (64, 64), "GIF")[:30], "damaged|not a picture"),
        (_huge_png(), r"more than \d+ million pixels"),
        (Unreadable("larger than 256 MiB"), "larger than 256 MiB"),
        (encoded(Image.new("F", (9, 9)), "TIFF"), "its pixels are fractions"),
        ("/nowhere/at/all.png", "No such file"),
    ],
)
def test_what_is_no_picture_says_why(payload: bytes | str | Unreadable, said: str) -> None:
    for decode in (decode_image, decode_mask) if said != "its pixels are fractions" else (decode_image,):
        with pytest.raises(UndecodableImage, match=said):
            decode(payload, SIDE)


def test_large_but_sane_pictures_above_pillows_first_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UndecodableImage, match="million pixels"):
        decode_image(picture(0, (11, 11)), SIDE)


def test_damaged_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    whole = {kind: picture(1, (24, 24), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")}
    for content in whole.values():
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), size=rng.integers(1, 8)):
                damaged[place] = rng.integers(256)
            found = decode_all([DecodeTask(0, False, bytes(damaged)), DecodeTask(0, True, bytes(damaged))], 8)
            assert len(found.pixels) == 2


def mask(values: list[list[int]], mode: str = "L") -> bytes:
    image = Image.fromarray(np.array(values, dtype=np.uint8))
    if mode == "P":
        image.putpalette([9 * index % 256 for index in range(768)])
    return encoded(image)


@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 1], [1, 0]], [[0, 1], [1, 0]]),
        ([[0, 255], [255, 0]], [[0, 1], [1, 0]]),
        ([[255, 255], [255, 255]], [[1, 1], [1, 1]]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        ([[0, 1], [255, 7]], [[0, 1], [255, 1]]),
        ([[31, 255], [0, 0]], [[1, 255], [0, 0]]),
    ],
)
def test_values_of_masks(mode: str, values: list[list[int]], expected: list[list[int]]) -> None:
    pixels, size = decode_mask(mask(values, mode), 2)
    assert pixels.tolist() == expected
    assert pixels.dtype == np.uint8
    assert size == (2, 2)


def test_masks_of_one_bit_and_of_colours_mean_the_object_where_they_are_not_black() -> None:
    half = Image.new("1", (4, 4), 0)
    half.paste(1, (0, 0, 2, 4))
    for image in (half, half.convert("RGB")):
        assert decode_mask(encoded(image), 4)[0].tolist() == [[1, 1, 0, 0]] * 4


def remarked(image: Image.Image) -> list[str]:
    found: list[str] = []
    decode_mask(encoded(image), 4, remarks=found)
    return found


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_masks_that_are_cut_out_mean_what_is_not_transparent(mode: str) -> None:
    alpha = Image.fromarray(np.array([[255, 200, 100, 0]] * 4, dtype=np.uint8))
    cut_out = Image.new("RGB", (4, 4), (90, 120, 30)).convert(mode)
    cut_out.putalpha(alpha)
    assert decode_mask(encoded(cut_out), 4)[0].tolist() == [[1, 1, 0, 0]] * 4
    assert remarked(cut_out) == ["a mask made of the opaque part (a cut-out)"]
    opaque = Image.fromarray(np.array([[0, 0, 255, 255]] * 4, dtype=np.uint8)).convert(mode)
    assert decode_mask(encoded(opaque), 4)[0].tolist() == [[0, 0, 1, 1]] * 4
    opaque.putalpha(Image.fromarray(np.array([[255, 255, 255, 0]] * 4, dtype=np.uint8)))
    with pytest.raises(UndecodableImage, match="transparent in part, and black and white in the rest"):
        decode_mask(encoded(opaque), 4)


def test_odd_masks_are_remarked() -> None:
    assert remarked(Image.new("L", (4, 4), 255)) == [ALL_OBJECT]
    assert remarked(Image.new("L", (4, 4), 0)) == [NO_OBJECT]
    assert remarked(Image.fromarray(np.array([[0, 255], [7, 255]] * 2, dtype=np.uint8))) == []
    sharp = np.zeros((8, 8), dtype=np.uint8)
    sharp[2:6, 2:6] = 255
    assert remarked(Image.fromarray(sharp)) == []
    assert remarked(Image.fromarray(np.where(sharp, 1, 2).astype(np.uint8))) == [TRIMAP]
    numbered = sharp.copy()
    numbered[2:4] = np.arange(8)
    assert remarked(Image.fromarray(numbered)) == []


def drawn(side: int, inside: int, rim: int | None = None) -> Image.Image:
    """A mask with a disc, and another value where the disc ends."""
    down, across = np.mgrid[:side, :side] - (side - 1) / 2
    distance = np.hypot(down, across) / side
    values = np.where(distance < 0.3, inside, 0)
    if rim is not None:
        values[(distance >= 0.27) & (distance < 0.33)] = rim
    return Image.fromarray(values.astype(np.uint8))


SMOOTHED = {
    "resized": drawn(40, 255).resize((70, 70), Image.Resampling.BICUBIC),
    "blurred": drawn(60, 255).filter(ImageFilter.GaussianBlur(2)),
    "a square": Image.fromarray(np.pad(np.full((20, 20), 255, dtype=np.uint8), 10)).filter(ImageFilter.BoxBlur(1)),
    "a JPEG": Image.open(io.BytesIO(encoded(drawn(64, 255), "JPEG", quality=80))).convert("L"),
}


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_white_of_a_mask_with_smoothed_edges_is_the_object(name: str, mode: str) -> None:
    image = SMOOTHED[name]
    found, _ = decode_mask(encoded(image.convert(mode)), image.width)
    np.testing.assert_array_equal(found, np.asarray(image) >= 128)
    assert 0.1 < (found == 1).mean() < 0.5
    assert remarked(image.convert(mode)) == [SMOOTH]


@pytest.mark.parametrize("number", [1, 20, 40, 150, 254])
def test_numbers_of_classes_keep_255_for_undecided(number: int) -> None:
    image = drawn(60, number, rim=255)
    found, _ = decode_mask(encoded(image), 60)
    values = np.asarray(image)
    assert set(np.unique(found)) == {0, 1, 255}
    np.testing.assert_array_equal(found == 1, values == number)
    np.testing.assert_array_equal(found == 255, values == 255)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[128, 255], [0, 0]], dtype=np.uint8)),
        drawn(400, 255).filter(ImageFilter.GaussianBlur(30)),
        Image.fromarray(np.tile(np.array([0, 60, 255, 90], dtype=np.uint8), (20, 5))),
    ],
    ids=["too small", "soft", "lines"],
)
def test_greys_that_may_be_edges_or_numbers_are_refused_with_what_to_do(image: Image.Image) -> None:
    with pytest.raises(
        UndecodableImage, match=r"greys beside white.*save it with the values 0 and 255 alone, or with a"
    ):
        decode_mask(encoded(image), 4)
    numbered = image.convert("L")
    numbered.putpalette([index // 3 for index in range(768)])
    assert numbered.mode == "P"
    decode_mask(encoded(numbered), 4)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_masks_go_the_way_of_their_pictures(orientation: int) -> None:
    bright = np.zeros((30, 50), dtype=np.uint8)
    bright[3:15, 13:31] = 255  # edges on those of the shrunk pixels
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image, content = Image.fromarray(bright), encoded(Image.fromarray(bright), exif=exif)
    shrunk, size = decode_image(encoded(image.convert("RGB"), exif=exif), 10)
    found, mask_size = decode_mask(content, 10)
    assert size == mask_size
    np.testing.assert_array_equal(found == 1, shrunk[..., 0] > 127)


def test_a_broken_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(picture())
    found = decode_all(
        [DecodeTask(0, False, b"bad"), DecodeTask(1, False, str(tmp_path / "good.png")), DecodeTask(1, True, b"")], SIDE
    )
    assert [isinstance(pixels, str) for pixels in found.pixels] == [True, False, True]
    assert found.sizes == [(0, 0), (8, 10), (0, 0)]


def _with_chunks(content: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with further chunks after its header."""
    added = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return content[:33] + added + content[33:]


PROFILE = (b"iCCP", b"a profile\0\0" + zlib.compress(bytes(2 * 2**20)))
TEXT = (b"zTXt", b"a text\0\0" + zlib.compress(b"a" * 2 * 2**20))
TEXTS = [(b"tEXt", b"a text\0" + b"a" * 2**20)] * 66
"""Together more than Pillow takes."""


@pytest.mark.parametrize(
    "chunks", [[PROFILE], [TEXT], TEXTS, [PROFILE, TEXT]], ids=["profile", "text", "texts", "both"]
)
@pytest.mark.parametrize("as_path", [False, True])
def test_what_a_png_says_beside_its_pixels_may_be_of_any_size(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], as_path: bool
) -> None:
    content = picture(3, (SIDE, SIDE))
    file = tmp_path / "profile.png"
    file.write_bytes(_with_chunks(content, *chunks))
    remarks: list[str] = []
    given = str(file) if as_path else file.read_bytes()
    pixels, _ = decode_image(given, SIDE, name="profile.png", remarks=remarks)
    np.testing.assert_array_equal(pixels, decode_image(content, SIDE)[0])
    np.testing.assert_array_equal(pixels, read_image(file.read_bytes(), 3, SIDE))
    assert not remarks


def test_a_large_profile_does_not_hide_how_a_picture_is_turned_nor_that_it_is_torn() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    content = _with_chunks(encoded(quarters(), exif=exif), PROFILE)
    assert corners(decode_image(content, SIDE)[0]) == UPRIGHT[::-1]
    with pytest.raises(UndecodableImage, match="damaged"):
        decode_image(content[:-60], SIDE)


def test_a_phones_jpeg_of_several_pictures_is_a_jpeg() -> None:
    content = encoded(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    remarks: list[str] = []
    assert corners(decode_image(content, SIDE, name="photo.jpg", remarks=remarks)[0]) == UPRIGHT
    assert not remarks
