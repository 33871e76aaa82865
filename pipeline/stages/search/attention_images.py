"""Attention of the best configuration and of the controls on the same validation images: pictures, and their arrays.

<configuration>/attention/validation_images.png
                             every head: its map, what lies above the cut, the components; attention
<configuration>/attention/validation_images.npz
                             ids, labels, images, masks; similarity and components (n, heads, h, w); attention, the
                             softmax of the maps; threshold
all/attention/settings.png   the configurations side by side, cut alike
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.prepared.prepared import Prepared
from pipeline.figures.attention import attention, attention_figure, comparison_figure, components
from pipeline.figures.fonts import fit_fonts

DPI = 110
THRESHOLD = "regularizer.spatial_entropy.threshold"


@dataclass(frozen=True)
class ConfigMaps:
    """A configuration's similarity maps (n, A, h, w) of the images shown.

    name: `best` or a control's. threshold: its cut.
    """

    name: str
    title: str
    threshold: float
    maps: NDArray[np.float32]


def write_attention(
    folder: Path, prepared: Prepared, shown: Sequence[int], configs: Sequence[ConfigMaps]
) -> Mapping[str, Path]:
    """Write the files of the module's list and return, by configuration, the folder that holds its own.

    Under the name "all", where there are two configurations or more, stands the folder of the picture of all: cut as
    the first one's is.
    """
    ids = np.asarray(shown)
    images, masks = prepared.images[ids], None if prepared.masks is None else prepared.masks[ids]
    raw = {"ids": ids, "labels": np.asarray(prepared.labels)[ids], "images": images}
    raw |= {} if masks is None else {"masks": masks}
    folders = {}
    for config in configs:
        folders[config.name] = folder / config.name
        place = folders[config.name] / "attention"
        place.mkdir(parents=True, exist_ok=True)
        figure = attention_figure(images, config.maps, masks=masks, threshold=config.threshold, title=config.title)
        fit_fonts(figure)
        figure.savefig(place / "validation_images.png", dpi=DPI)
        arrays: dict[str, Any] = {**raw, **_arrays(config)}
        np.savez_compressed(place / "validation_images.npz", **arrays)
    if len(configs) > 1:
        folders["all"] = folder / "all"
        place = folders["all"] / "attention"
        place.mkdir(parents=True, exist_ok=True)
        threshold = configs[0].threshold
        names = ", ".join(config.name for config in configs)
        figure = comparison_figure(
            images,
            {config.name: config.maps for config in configs},
            masks=masks,
            threshold=threshold,
            title=f"{names}: cut at {threshold:.2g} standard deviations above the mean",
        )
        fit_fonts(figure)
        figure.savefig(place / "settings.png", dpi=DPI)
    return folders


def _arrays(config: ConfigMaps) -> dict[str, NDArray[Any]]:
    flat = config.maps.reshape(-1, *config.maps.shape[-2:])
    labels = np.stack([components(each, config.threshold) for each in flat]).reshape(config.maps.shape)
    return {
        "similarity": config.maps,
        "components": labels.astype(np.int16),
        "attention": attention(config.maps).astype(np.float32),
        "threshold": np.array(config.threshold),
    }
