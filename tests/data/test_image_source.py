"""Claims about what each source of images gives."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources.image_source import SOURCES, ArraySource, SourceConfig, preview_dataset, read_digits
from pipeline.errors import UserError


@pytest.fixture(scope="module")
def digits() -> ArraySource:
    return read_digits(12)


def test_digits_are_1797_labelled_images_of_the_asked_size(digits: ArraySource) -> None:
    assert digits.images.shape == (1797, 12, 12, 1)
    assert digits.images.dtype == np.uint8
    assert digits.labels.shape == (1797,)
    assert digits.labels.dtype == np.int64
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.classes == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def test_digits_use_the_whole_range_of_grey(digits: ArraySource) -> None:
    assert digits.images.min() == 0
    assert digits.images.max() == 255


def test_digits_of_their_own_size_are_the_scans_themselves() -> None:
    from sklearn.datasets import load_digits

    scans = np.asarray(load_digits().images)
    np.testing.assert_array_equal(read_digits(8).images[..., 0], np.rint(scans / 16 * 255))


def test_masks_of_digits_are_where_the_ink_is(digits: ArraySource) -> None:
    assert digits.masks is not None
    assert digits.masks.shape == (1797, 12, 12)
    assert digits.masks.dtype == np.uint8
    np.testing.assert_array_equal(digits.masks == 1, digits.images[..., 0] >= 64)
    assert digits.masks.mean() == pytest.approx(0.45, abs=0.01)
    assert digits.masks.reshape(1797, -1).any(axis=1).all()


def test_digits_say_where_they_come_from(digits: ArraySource) -> None:
    assert "scikit-learn" in digits.origin
    assert digits.licence == "CC BY 4.0"


@pytest.mark.parametrize("name", list(SOURCES))
def test_preview_of_a_source_is_what_reading_it_gives(name: str) -> None:
    told, source = preview_dataset(SourceConfig(name, 8)), SOURCES[name](8)
    assert source.name == name
    assert told.images == len(source.images)
    assert told.classes == source.classes
    assert told.channels == source.images.shape[3]
    assert told.class_counts == tuple(np.bincount(source.labels))


def test_root_and_dataset_must_fit_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: prepare\.root: cannot be used with prepare\.dataset: digits"):
        preview_dataset(SourceConfig("digits", 8, tmp_path))
    with pytest.raises(UserError, match=r"params\.yaml: prepare\.root: is null, but prepare\.dataset is image_folder"):
        preview_dataset(SourceConfig("image_folder", 8))
