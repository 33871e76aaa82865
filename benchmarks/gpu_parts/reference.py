"""Spatial entropy as its definition says, in float64 on the CPU, and maps on which labelling goes wrong first."""

import math

import torch
from torch import Tensor

NEIGHBOURS = {
    4: ((-1, 0), (1, 0), (0, -1), (0, 1)),
    8: ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)),
}


def components(mask: Tensor, connectivity: int) -> list[list[int]]:
    """The connected pixels of one mask (H, W), each component as flat indices, by walking from pixel to pixel."""
    height, width = mask.shape
    dry = set(mask.flatten().nonzero()[:, 0].tolist())
    found = []
    while dry:
        wet = [dry.pop()]
        for pixel in wet:
            row, column = divmod(pixel, width)
            for down, right in NEIGHBOURS[connectivity]:
                if 0 <= row + down < height and 0 <= column + right < width:
                    beside = (row + down) * width + column + right
                    if beside in dry:
                        dry.remove(beside)
                        wet.append(beside)
        found.append(wet)
    return found


def entropies(maps: Tensor, thresholds: Tensor, connectivity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of maps (n, H, W): entropies (n,), which are empty (n,), and the gradient of each by its own map, from autograd.

    thresholds: (n,). All in float64, whatever the maps are of; nothing here is of the pipeline.
    """
    values, empty, gradients = [], [], []
    for single, threshold in zip(maps.cpu().double(), thresholds.tolist(), strict=True):
        leaf = single.clone().requires_grad_()
        deviation = leaf.std(correction=0)
        cut = leaf.mean() + threshold * deviation
        none = not math.isfinite(deviation.item()) or deviation.item() < 1e-4 or not bool((single > cut).any())
        empty.append(none)
        if none:
            values.append(single.new_zeros(()))
            gradients.append(torch.zeros_like(single))
            continue
        excess = (leaf - cut).flatten()
        masses = torch.stack([excess[each].sum() for each in components(single > cut.detach(), connectivity)])
        shares = masses / masses.sum()
        value = -(shares * shares.log()).sum()
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, leaf)[0])
    return torch.stack(values), torch.tensor(empty), torch.stack(gradients)


def clear(maps: Tensor, thresholds: Tensor, margin: float = 1e-9) -> Tensor:
    """Which maps (n, H, W) have no pixel that rounding could move over their cut; what is no map has none."""
    exact = maps.cpu().double()
    deviation = exact.std(dim=(1, 2), correction=0, keepdim=True)
    distance = (exact - exact.mean(dim=(1, 2), keepdim=True) - thresholds.cpu()[:, None, None] * deviation).abs()
    least = distance.flatten(1).amin(1)
    return ~(least < margin) | ~(deviation[:, 0, 0] >= 1e-4)


def nasty(side: int, generator: torch.Generator) -> Tensor:
    """Maps (n, side, side) in float64: winding components, as many as can be, one pixel, all, none, and no maps."""
    zeros = torch.zeros(side, side, dtype=torch.float64)
    winding, comb, dots, one, last = (zeros.clone() for _ in range(5))
    winding[::2] = 1.0
    for row in range(1, side - 1, 2):
        winding[row, -1 if row % 4 == 1 else 0] = 1.0
    comb[:, ::2] = 1.0
    comb[-1] = 1.0
    dots[::2, ::2] = 1.0
    one[side // 2, side // 3] = 1.0
    last[-1, -1] = 1.0
    board = (torch.arange(side)[:, None] + torch.arange(side)).remainder(2).double()
    shapes = [winding, winding.T, comb, comb.flip(0), dots, board, 1.0 - board, 1.0 - one, one, last]
    uneven = 0.5 + torch.rand(side, side, dtype=torch.float64, generator=generator)
    nan, infinite, minus = uneven.clone(), uneven.clone(), uneven.clone()
    nan[0, -1], infinite[-1, 0], minus[0, 0] = math.nan, math.inf, -math.inf
    none = [zeros, zeros + 3.0, 1e-5 * uneven, nan, infinite, minus, 1e30 * uneven]
    return torch.stack([*shapes, *(shape * uneven for shape in shapes), uneven, *none])
