"""Spatial entropy in plain PyTorch, the equations of `pipeline.regularizers.spatial_entropy` as they stand there.

It works for every device and grid and is what the compiled paths are tested against; where one of those is at hand, it
is faster. Components are labelled on the CPU.
"""

import torch
from torch import Tensor

NEARLY_CONSTANT = 1e-4
"""A map whose standard deviation is below this is empty."""


def plain_entropy(
    maps: Tensor, thresholds: Tensor, connectivity: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropies, which maps are empty, and the gradient of each entropy by its own map, in closed form.

    maps: (n, H, W) float32 or float64. thresholds: (n,) float64, one a map, on the maps' device. Returns (n,) of the
    maps' dtype, (n,) bool, and (n, H, W) of the maps' dtype, or (0,) without the gradient.
    """
    # float64 whatever the maps are of: where little lies above the cut, the gradient is large, and so would be the
    # rounding of the cut in it; and which pixels are above the cut does not depend on how a sum was rounded.
    patches = maps.detach().flatten(1).double()
    threshold = thresholds[:, None]
    mean = patches.mean(1, keepdim=True)
    centred = patches - mean
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    excess = (centred - threshold * deviation).clamp(min=0)
    # Written so that NaN fails it; an infinity anywhere makes the mean, and so the deviation, not finite.
    usable = (deviation >= NEARLY_CONSTANT) & deviation.isfinite() & (excess.amax(1, keepdim=True) > 0)
    excess = excess.where(usable, 0.0)

    labels, owner = label_components((excess > 0).view_as(maps), connectivity)
    labels = labels.flatten()
    # Index 0 is the background: no mass, and owned by map 0 without consequence.
    mass = excess.new_zeros(len(owner)).index_add_(0, labels, excess.flatten())
    total = excess.sum(1)
    share = mass / total[owner]
    share[0] = 1.0  # so that the background adds - 1 ln 1 = 0
    log_share = share.clamp(min=torch.finfo(share.dtype).tiny).log()
    entropy = excess.new_zeros(len(patches)).index_add_(0, owner, -share * log_share)

    gradient = maps.new_empty(0)
    if with_gradient:
        inside = excess > 0
        slope = (-(log_share[labels].view_as(excess) + entropy[:, None]) / total[:, None]).where(inside, 0.0)
        pull = slope.mean(1, keepdim=True)
        found = slope - pull - threshold * pull * centred / deviation
        gradient = found.where(usable, 0.0).view_as(maps).to(maps.dtype)
    return entropy.to(maps.dtype), ~usable[:, 0], gradient


def label_components(mask: Tensor, connectivity: int) -> tuple[Tensor, Tensor]:
    """Connected components of masks (n, H, W), all maps in one call.

    Returns labels (n, H, W) int64, 0 for background and 1 .. K counted through all maps, and for each label 0 .. K the
    index of its map, (K + 1,) int64 (0 for the background). Labels are made on the CPU, wherever the mask lives.
    """
    from scipy import ndimage  # here, so that training on a GPU, whose kernel labels by itself, needs no scipy

    # Outer planes of zeros keep the maps of the batch apart while they are labelled as one three-dimensional picture.
    structure = ndimage.generate_binary_structure(3, 3)
    if connectivity == 4:
        structure = ndimage.generate_binary_structure(3, 1)
    structure[[0, 2]] = False
    found, count = ndimage.label(mask.cpu().numpy(), structure=structure)
    labels = torch.from_numpy(found).to(mask.device, torch.int64)
    owner = labels.new_zeros(count + 1)
    maps = torch.arange(len(mask), device=mask.device).view(-1, 1, 1).expand_as(labels)
    owner[labels.flatten()] = maps.flatten()
    owner[0] = 0
    return labels, owner
