"""Claims about what `check` says of the pictures' sizes, before anything is made of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.picture_sets import encoded, picture, pictures, write_archive, write_folder

from pipeline.config import Params
from pipeline.data.decode.masks import SMOOTH, TRIMAP
from pipeline.data.sources.size_sample import MASKS_LOOKED_AT, sample_masks, sample_sizes
from pipeline.data.sources.source_config import SourceConfig
from pipeline.preflight.image_sizes import describe_masks, mask_lines, size_lines
from pipeline.workspace import Workspace

FILES = {
    f"{name}/{number}.png": picture(number, (40 + number, 30)) for name in ("cat", "dog") for number in range(5)
} | {"cat/broken.png": b"no picture"}


@pytest.mark.parametrize("kind", ["set", "set.zip", "set.tar.xz"])
def test_some_pictures_of_a_set_are_looked_at(tmp_path: Path, kind: str) -> None:
    root = (write_folder if kind == "set" else write_archive)(tmp_path / kind, FILES)
    settings = SourceConfig("image_folder", 8, root)
    assert sorted(sample_sizes(settings)) == sorted((30, 40 + number) for number in range(5) for _ in range(2))
    assert 2 <= len(sample_sizes(settings, most=4)) <= 4
    assert sample_sizes(SourceConfig("digits", 8)) == []


def test_what_is_lost_of_photographs_is_told_with_what_to_set() -> None:
    lines = size_lines([(300, 400), (300, 400), (280, 600)], 12)
    assert lines[0] == ("pictures  400 x 300 pixels (median of 3 looked at, shorter sides 280 to 300) become 12 x 12")
    assert lines[1].strip() == (
        "much detail is lost: one pixel replaces 625 of the central square. To keep more, set prepare.image_size (such "
        "as 224)"
    )
    assert lines[2].strip() == "and model.kwargs to match (a patch_size that divides it, such as 16)"


@pytest.mark.parametrize(
    ("shorter", "side", "suggested"),
    [
        (300, 224, None),
        (32, 32, None),
        (32, 28, None),
        (64, 12, "64"),
        (100, 32, "96"),
        (24, 12, "24"),
        (25, 12, "24"),
        (31, 12, "28"),
        (23, 12, None),
        (3000, 64, "224"),
        (3000, 224, None),
        (3000, 200, None),
        (1024, 384, None),
        (450, 224, None),
    ],
)
def test_only_much_is_told(shorter: int, side: int, suggested: str | None) -> None:
    lines = size_lines([(shorter, shorter + 10)] * 2, side)
    assert len(lines) == (1 if suggested is None else 3)
    if suggested is not None:
        assert f"(such as {suggested})" in lines[1]
        patch = int(lines[2].rpartition("such as ")[2].rstrip(")"))
        assert patch > 1
        assert int(suggested) % patch == 0


def test_pixels_are_counted_and_not_their_rounded_side() -> None:
    assert "one pixel replaces 278 of" in size_lines([(200, 300)], 12)[1]


def test_long_pictures_are_said_to_be_cut() -> None:
    lines = size_lines([(20, 4000)] * 3, 12)
    assert lines[1].strip().startswith("99.5 % of a picture is cut off: only its central square is kept")
    assert len(lines) == 3
    assert "66.6 % of" in size_lines([(300, 100)], 64)[1]
    assert len(size_lines([(300, 400)], 224)) == 1


def masked(values: np.ndarray) -> dict[str, bytes]:
    """Two classes of pictures, each with the same mask."""
    files = pictures({"cat": 30, "dog": 30})
    mask = encoded(Image.fromarray(values.astype(np.uint8)))
    return {f"masks/{name}": mask for name in files} | files


SQUARE = np.pad(np.ones((12, 12)), 6)


@pytest.mark.parametrize("kind", ["set", "set.zip", "set.tar.xz"])
def test_some_masks_of_a_set_are_looked_at(tmp_path: Path, kind: str) -> None:
    root = (write_folder if kind == "set" else write_archive)(tmp_path / kind, masked(2 - SQUARE))
    found = sample_masks(SourceConfig("image_folder", 8, root))
    assert MASKS_LOOKED_AT / 2 < len(found) <= MASKS_LOOKED_AT
    assert set(found.values()) == {(TRIMAP,)}
    assert all(name.startswith("masks/") for name in found)
    assert sample_masks(SourceConfig("digits", 8)) == {}


def test_masks_after_the_part_of_an_archive_that_is_read_are_not_looked_for(tmp_path: Path) -> None:
    files = masked(SQUARE)
    last = dict(sorted(files.items(), key=lambda each: each[0].startswith("masks/")))
    assert sample_masks(SourceConfig("image_folder", 8, write_archive(tmp_path / "set.tar.xz", last))) == {}
    assert len(sample_masks(SourceConfig("image_folder", 8, write_archive(tmp_path / "set.zip", last)))) > 1


def test_odd_masks_are_told_with_what_to_do(tmp_path: Path) -> None:
    files = masked(255 * SQUARE)
    smooth = Image.fromarray((255 * SQUARE).astype(np.uint8)).filter(ImageFilter.BoxBlur(1))
    files["masks/cat/0.png"] = encoded(smooth)
    write_folder(tmp_path / "photos", files)
    params = Params().with_values({"prepare.dataset": "image_folder", "prepare.root": "photos"}, where="test")
    lines = describe_masks(Workspace(tmp_path, tmp_path), params)
    assert lines == ["masks     20 looked at", f"          1 of these: {SMOOTH} (masks/cat/0.png)"]
    lines = mask_lines({"masks/cat/0.png": [TRIMAP], "masks/cat/1.png": [TRIMAP]})
    assert lines[1] == f"          2 of these: {TRIMAP} (masks/cat/0.png, masks/cat/1.png)"
    assert "convert it to 0 background, 1 object, 255 undecided (docs/own-images/decoding.md)" in lines[2]
    assert mask_lines({"masks/cat/0.png": []}) == ["masks     1 looked at: nothing about them is odd"]
