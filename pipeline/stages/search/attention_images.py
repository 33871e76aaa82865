"""Attention of the best configuration and of the controls on the same validation images, as pictures and arrays.

<configuration>/attention/validation_images.png
                             every head: its map, the patches above the cut, the components; attention
<configuration>/attention/validation_images.npz
                             ids, labels, images, masks; similarity and components (n, heads, h, w); attention, the
                             softmax of the maps; threshold
all/attention/settings.png   the configurations side by side, with one cut
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.data.prepared.prepared import Prepared
from pipeline.figures.attention import attention, attention_figure, comparison_figure, components
from pipeline.figures.fonts import fit_fonts

DPI = 110
THRESHOLD = "regularizer.spatial_entropy.threshold"
"""Parameter with the cut of the maps, in standard deviations above the mean."""


@dataclass(frozen=True)
class ConfigMaps:
    """Similarity maps of one configuration for the images shown.

    Attributes:
        name: `best`, or the control's name.
        title: Title of the figure.
        threshold: Cut of the maps, in standard deviations above the mean.
        maps: Similarity maps, (n, A, h, w).
    """

    name: str
    title: str
    threshold: float
    maps: NDArray[np.float32]


def write_attention(
    folder: Path, prepared: Prepared, shown: Sequence[int], configs: Sequence[ConfigMaps]
) -> Mapping[str, Path]:
    """Writes the files that the module's docstring lists.

    Args:
        folder: Folder below which the files are written.
        prepared: The prepared set.
        shown: Ids of the n images.
        configs: The configurations' maps; the first one's threshold cuts the maps of the common figure.

    Returns:
        The folder of each configuration's files, by its name. With two or more configurations, `all` is the
        folder of the common figure.
    """
    ids = np.asarray(shown)
    images, masks = prepared.images[ids], None if prepared.masks is None else prepared.masks[ids]
    raw = {"ids": ids, "labels": np.asarray(prepared.labels)[ids], "images": images}
    raw |= {} if masks is None else {"masks": masks}
    folders = {}
    for config in configs:
        folders[config.name] = folder / config.name
        figure = attention_figure(images, config.maps, masks=masks, threshold=config.threshold, title=config.title)
        place = _save(figure, folders[config.name] / "attention", "validation_images.png")
        arrays: dict[str, Any] = {**raw, **_arrays(config)}
        np.savez_compressed(place / "validation_images.npz", **arrays)
    if len(configs) > 1:
        folders["all"] = folder / "all"
        threshold = configs[0].threshold
        names = ", ".join(config.name for config in configs)
        figure = comparison_figure(
            images,
            {config.name: config.maps for config in configs},
            masks=masks,
            threshold=threshold,
            title=f"{names}: cut at {threshold:.2g} standard deviations above the mean",
        )
        _save(figure, folders["all"] / "attention", "settings.png")
    return folders


def _save(figure: Figure, place: Path, name: str) -> Path:
    """Writes a figure to a folder, which is made, and returns the folder.

    Args:
        figure: The figure.
        place: The folder.
        name: Name of the file.
    """
    place.mkdir(parents=True, exist_ok=True)
    fit_fonts(figure)
    figure.savefig(place / name, dpi=DPI)
    return place


def _arrays(config: ConfigMaps) -> dict[str, NDArray[Any]]:
    flat = config.maps.reshape(-1, *config.maps.shape[-2:])
    labels = np.stack([components(each, config.threshold) for each in flat]).reshape(config.maps.shape)
    return {
        "similarity": config.maps,
        "components": labels.astype(np.int16),
        "attention": attention(config.maps).astype(np.float32),
        "threshold": np.array(config.threshold),
    }
