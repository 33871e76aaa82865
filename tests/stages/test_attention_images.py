"""The pictures of attention and the arrays beside them are of the same images, maps and cuts."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.data.prepared.prepared import Prepared
from pipeline.figures.attention import components
from pipeline.stages.search.attention_images import ConfigMaps, write_attention


def prepared(*, masks: bool = True) -> Prepared:
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(6, 8, 8, 1)).astype(np.uint8)
    return Prepared(images, np.arange(6), np.ones((6, 8, 8), np.uint8) if masks else None, {}, None)


def settings(*names: str) -> list[ConfigMaps]:
    rng = np.random.default_rng(1)
    return [
        ConfigMaps(name, f"{name}: w=1", 0.2 * place, rng.normal(size=(2, 3, 4, 4)).astype(np.float32))
        for place, name in enumerate(names)
    ]


def test_every_setting_has_a_picture_and_its_arrays_and_all_have_one_together(tmp_path: Path) -> None:
    data, drawn = prepared(), settings("best", "baseline", "paper")
    folders = write_attention(tmp_path, data, [1, 4], drawn)
    assert list(folders) == ["best", "baseline", "paper", "all"]
    for setting in drawn:
        folder = folders[setting.name] / "attention"
        assert imread(folder / "validation_images.png").shape[1] > 400
        with np.load(folder / "validation_images.npz") as arrays:
            assert arrays["ids"].tolist() == arrays["labels"].tolist() == [1, 4]
            np.testing.assert_array_equal(arrays["images"], data.images[np.array([1, 4])])
            assert arrays["masks"].shape == (2, 8, 8)
            np.testing.assert_array_equal(arrays["similarity"], setting.maps)
            assert float(arrays["threshold"]) == setting.threshold
            expected = components(setting.maps[1, 2], setting.threshold)
            np.testing.assert_array_equal(arrays["components"][1, 2], expected)
            np.testing.assert_allclose(arrays["attention"].sum(axis=(2, 3)), 1, rtol=1e-5)
    # Three settings: wide enough for ten columns of 100 pixels or more.
    assert imread(folders["all"] / "attention" / "settings.png").shape[1] >= 1000


def test_one_setting_alone_has_nothing_beside_it_and_no_masks_are_none(tmp_path: Path) -> None:
    folders = write_attention(tmp_path, prepared(masks=False), [0, 3], settings("best"))
    assert list(folders) == ["best"]
    with np.load(folders["best"] / "attention" / "validation_images.npz") as arrays:
        assert "masks" not in arrays.files


@pytest.mark.parametrize("count", [1, 8])
def test_pictures_take_any_number_of_heads(tmp_path: Path, count: int) -> None:
    maps = np.random.default_rng(0).normal(size=(1, count, 4, 4)).astype(np.float32)
    write_attention(tmp_path, prepared(), [2], [ConfigMaps("best", "", 0.0, maps)])
