"""Spatial entropy in plain PyTorch, by the equations of `pipeline.regularizers.spatial_entropy`.

It works on every device and grid, and the tests compare the compiled paths with it. The compiled paths are
faster where they are available. Components are labelled on the CPU.
"""

import torch
from torch import Tensor

NEARLY_CONSTANT = 1e-4
"""Standard deviation below which a map is empty."""


def plain_entropy(
    maps: Tensor, thresholds: Tensor, connectivity: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes entropies, empty maps, and the gradient of each entropy by its own map in closed form.

    Args:
        maps: (n, H, W), float32 or float64.
        thresholds: Standard deviations above the mean at which each map is cut, (n,) float64, on the maps'
            device.
        connectivity: 4 or 8 neighbours.
        with_gradient: Whether the gradient is computed.

    Returns:
        Entropies (n,) of the maps' dtype; whether each map is empty, (n,) bool; and gradients (n, H, W) of
        the maps' dtype, or (0,) without the gradient.
    """
    # float64 whatever the maps' dtype. Where little lies above the cut, the gradient is large and would amplify the
    # rounding of the cut. Also, the rounding of a sum must not decide which pixels are above the cut.
    patches = maps.detach().flatten(1).double()
    threshold = thresholds[:, None]
    mean = patches.mean(1, keepdim=True)
    centred = patches - mean
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    excess = (centred - threshold * deviation).clamp(min=0)
    # NaN fails this comparison. An infinity anywhere makes the mean, and so the deviation, not finite.
    usable = (deviation >= NEARLY_CONSTANT) & deviation.isfinite() & (excess.amax(1, keepdim=True) > 0)
    excess = excess.where(usable, 0.0)

    labels, owner = label_components((excess > 0).view_as(maps), connectivity)
    labels = labels.flatten()
    # Index 0 is the background. Its owner is map 0, which has no effect, since its mass is 0.
    mass = excess.new_zeros(len(owner)).index_add_(0, labels, excess.flatten())
    total = excess.sum(1)
    share = mass / total[owner]
    share[0] = 1.0  # the background then adds - 1 ln 1 = 0
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
    """Labels the connected components of masks, all maps in one call.

    Labels are computed on the CPU, whatever the device of the mask.

    Args:
        mask: (n, H, W) bool.
        connectivity: 4 or 8 neighbours.

    Returns:
        Labels (n, H, W) int64: 0 for background, and 1 .. K counted through all maps. Then the index of each
        label's map, (K + 1,) int64, which is 0 for the background.
    """
    from scipy import ndimage  # imported here, since the GPU kernel needs no scipy

    # The batch is labelled as one three-dimensional image. A structure without its outer planes keeps maps apart.
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
