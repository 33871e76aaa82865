"""Spatial entropy as SAR's authors released it, restated, and the same algorithm as fast as OpenCV and torch allow.

The released code (github.com/helia95/SAR) labels each map by a call of `cv2.connectedComponents`, makes a mask of each
component, and gathers the masks of all maps in one indexing, through which autograd goes back. The other sides are:

- `released`: that, with as many calls and masks. Detours of the authors' file that change nothing of it (labels to
  floats and back, a copy of each mask) are left out, so it is faster than their file.
- `released_by_arrays`: a labelling call a map as well, but no Python for each component. The best of their algorithm.
- `labelled_at_once`: all maps in one picture with empty rows and columns between them, one call that labels it, one sum
  by labels in place of masks. Nobody has released it; it is the best that we know to make of OpenCV and torch.

All take maps (n, H, W) on any device, label on the CPU as the release does, and give the mean of the entropies.
Where there is no OpenCV, as on a machine lent for its GPU, SciPy labels, which takes longer: `LABELS_BY` says which.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

try:
    import cv2

    LABELS_BY = "OpenCV"
except ImportError:
    from scipy import ndimage

    LABELS_BY = "SciPy"

Labels = NDArray[Any]


def label(mask: NDArray[np.uint8], *, deep: bool = False) -> tuple[int, Labels]:
    """Number the components of a mask (H, W) by 8 neighbours. Returns how many, the background included, and labels.

    deep: of 32 bits; of 16 bits they would end at 65,535.
    """
    if LABELS_BY == "OpenCV":
        count, labels = cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_32S if deep else cv2.CV_16U)
        return count, np.asarray(labels)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.uint8))
    return count + 1, labels


def released(maps: Tensor) -> Tensor:
    """One labelling call a map, one mask a component, all of them gathered in one indexing."""
    mean = maps.mean((-2, -1), keepdim=True)
    above = _above(maps, mean)
    owners: list[int] = []
    masks: list[Tensor] = []
    for number, one in enumerate(above):
        count, labels = label(one)
        for component in range(1, count):
            owners.append(number)
            masks.append(torch.from_numpy(labels == component).long())
    whose, inside = torch.tensor(owners).to(maps.device), torch.stack(masks).to(maps.device)
    excess, everything = torch.relu(maps - mean), torch.from_numpy(above).long().to(maps.device)
    masses, totals = ((excess[whose] * each).sum((-2, -1)) for each in (inside, everything[whose]))
    return _mean_entropy(masses / totals, len(maps))


def released_by_arrays(maps: Tensor) -> Tensor:
    """One labelling call a map; all masks in one comparison."""
    mean = maps.mean((-2, -1), keepdim=True)
    above = _above(maps, mean)
    found = [label(one) for one in above]
    counts = np.array([count - 1 for count, _ in found])
    owners = np.repeat(np.arange(len(maps)), counts)
    components = 1 + np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    labels = np.stack([labels for _, labels in found])
    return _by_masks(maps, mean, owners, labels[owners] == components.astype(labels.dtype)[:, None, None])


def labelled_at_once(maps: Tensor) -> Tensor:
    """One labelling call for all maps, and one sum by labels."""
    count, height, width = maps.shape
    mean = maps.mean((-2, -1), keepdim=True)
    picture = np.zeros((count, height + 1, width + 1), dtype=np.uint8)
    picture[:, :height, :width] = _above(maps, mean)
    components, labels = label(picture.reshape(-1, width + 1), deep=True)
    inside = torch.from_numpy(np.ascontiguousarray(labels.reshape(picture.shape)[:, :height, :width]))
    inside = inside.to(maps.device).flatten().long()
    owner = torch.zeros(components, dtype=torch.long, device=maps.device)
    owner[inside] = torch.arange(count, device=maps.device).repeat_interleave(height * width)
    excess = torch.relu(maps - mean)
    masses = excess.new_zeros(components).index_add(0, inside, excess.flatten())[1:]
    return _mean_entropy(masses / excess.sum((-2, -1))[owner[1:]], count)


def _above(maps: Tensor, mean: Tensor) -> NDArray[np.uint8]:
    """Where maps are above their mean, on the CPU, as OpenCV takes it."""
    above: NDArray[np.uint8] = (maps.detach() > mean.detach()).cpu().numpy().view(np.uint8)
    return above


def _by_masks(maps: Tensor, mean: Tensor, owners: NDArray[np.int64], masks: Labels) -> Tensor:
    """Mean entropy of masks (components, H, W), each of the map that owns it."""
    whose, inside = torch.from_numpy(owners).to(maps.device), torch.from_numpy(masks).to(maps.device)
    excess = torch.relu(maps - mean)
    return _mean_entropy((excess[whose] * inside).sum((-2, -1)) / excess.sum((-2, -1))[whose], len(maps))


def _mean_entropy(shares: Tensor, maps: int) -> Tensor:
    return -(shares * shares.log()).sum() / maps


SIDES = {
    "released": released,
    "released, by arrays": released_by_arrays,
    "one cv2 call for all maps": labelled_at_once,
}
