"""Spatial entropy restated slowly and plainly, one map at a time and filled by hand, and maps to compare on."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pipeline.regularizers.spatial_entropy import spatial_entropy

SIDES = {8: [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)], 4: [(-1, 0), (1, 0), (0, -1), (0, 1)]}


def flooded(inside: Tensor, connectivity: int) -> list[list[tuple[int, int]]]:
    """The components of one mask (H, W), each as the places that a flood reaches from its first pixel."""
    dry = {(int(row), int(column)) for row, column in inside.nonzero()}
    components = []
    while dry:
        wet = [dry.pop()]
        for row, column in wet:
            for down, right in SIDES[connectivity]:
                place = (row + down, column + right)
                if place in dry:
                    dry.remove(place)
                    wet.append(place)
        components.append(wet)
    return components


def slow_entropy(single: Tensor, threshold: float, connectivity: int) -> Tensor | None:
    """The entropy of one map (H, W) as its definition says, for autograd to differentiate; None for an empty map."""
    if not single.isfinite().all():
        return None
    mean = single.sum() / single.numel()
    deviation = (((single - mean) ** 2).sum() / single.numel()).sqrt()
    cut = mean + threshold * deviation
    if deviation < 1e-4 or not (single > cut).any():
        return None
    masses = []
    for component in flooded(single.detach() > cut.detach(), connectivity):
        rows, columns = zip(*component, strict=True)
        masses.append((single[list(rows), list(columns)] - cut).sum())
    shares = torch.stack(masses) / torch.stack(masses).sum()
    return -(shares * shares.log()).sum()


def slow(maps: Tensor, threshold: float, connectivity: int) -> tuple[Tensor, Tensor]:
    """Entropies of maps (n, H, W) in float64, 0 where a map is empty, and the gradient of each by its own map."""
    entropies, gradients = [], []
    for single in maps.double():
        leaf = single.clone().requires_grad_()
        entropy = slow_entropy(leaf, threshold, connectivity)
        if entropy is None:
            entropies.append(torch.zeros((), dtype=torch.float64))
            gradients.append(torch.zeros_like(single))
        else:
            entropies.append(entropy.detach())
            gradients.append(torch.autograd.grad(entropy, leaf)[0])
    return torch.stack(entropies), torch.stack(gradients)


def fast(maps: Tensor, threshold: float, connectivity: int) -> tuple[Tensor, Tensor]:
    """What is under test: entropies and the gradient of each by its own map."""
    leaf = maps.clone().requires_grad_()
    entropy = spatial_entropy(leaf, threshold=threshold, connectivity=connectivity)
    return entropy.detach(), torch.autograd.grad(entropy.sum(), leaf)[0]


def random_maps(seed: int, count: int = 264, *, largest: int = 14) -> Iterator[tuple[Tensor, float]]:
    """`count` maps of 3 x 5 to 32 x 32, most of at most `largest` a side, in batches of eight of one size each, noisy
    and smooth by turns, with the threshold to cut them at.
    """
    rng = np.random.default_rng(seed)
    first = [(3, 5), (14, 14), (7, 7), (5, 3), (32, 32)]
    sizes = [*first, *((int(h), int(w)) for h, w in rng.integers(3, largest + 1, size=(count // 8 - len(first), 2)))]
    for index, (height, width) in enumerate(sizes):
        noise = rng.normal(size=(8, height, width)) * rng.uniform(0.1, 10) + rng.normal() * 5
        if index % 2:
            noise = ndimage.gaussian_filter(noise, sigma=(0, 1, 1))
        yield torch.from_numpy(noise), float(rng.uniform(-0.5, 1.5))


def clear_of_the_cut(maps: Tensor, threshold: float, margin: float = 1e-3) -> Tensor:
    """Which maps (n, H, W) have no pixel within `margin` of their cut, (n,) bool."""
    mean, deviation = maps.mean(dim=(-2, -1), keepdim=True), maps.std(dim=(-2, -1), correction=0, keepdim=True)
    return ((maps - mean - threshold * deviation).abs() > margin).all(dim=-1).all(dim=-1)


def picture(*rows: str) -> Tensor:
    """A map that is 1 at every # and 0 elsewhere."""
    return torch.tensor([[float(mark == "#") for mark in row] for row in rows], dtype=torch.float64)


def serpentine(side: int) -> Tensor:
    """Every other row full, joined at alternating ends: one long winding component."""
    path = torch.zeros(side, side, dtype=torch.float64)
    path[::2] = 1.0
    for row in range(1, side - 1, 2):
        path[row, -1 if row % 4 == 1 else 0] = 1.0
    return path


def spiral(side: int) -> Tensor:
    """One path of width 1 from a corner to the middle, with walls of width 1: the flood that takes the most turns."""
    path = torch.zeros(side, side, dtype=torch.float64)
    row, column, down, right = 0, 0, 0, 1
    path[0, 0] = 1.0
    for _ in range(2 * side):
        while True:
            ahead = (row + 2 * down, column + 2 * right)
            beyond = not (0 <= row + down < side and 0 <= column + right < side)
            if beyond or (0 <= ahead[0] < side and 0 <= ahead[1] < side and path[ahead] == 1.0):
                break
            row, column = row + down, column + right
            path[row, column] = 1.0
        down, right = right, -down
        if not (0 <= row + down < side and 0 <= column + right < side) or path[row + down, column + right] == 1.0:
            break
    return path


def comb(side: int) -> Tensor:
    """Teeth that only the last row joins: labels that were given first turn out to be one component last."""
    teeth = torch.zeros(side, side, dtype=torch.float64)
    teeth[:, ::2] = 1.0
    teeth[-1] = 1.0
    return teeth


def nasty_maps(side: int) -> dict[str, Tensor]:
    """Maps of one size, by name: those on which labelling goes wrong first, and those that are no maps."""
    weights = torch.from_numpy(np.random.default_rng(side).uniform(0.5, 2.0, size=(side, side)))
    board = (torch.arange(side)[:, None] + torch.arange(side)).remainder(2).double()
    grid = torch.zeros(side, side, dtype=torch.float64)
    grid[::2, ::2] = 1.0
    one = torch.zeros(side, side, dtype=torch.float64)
    one[side // 2, side // 3] = 1.0
    last = torch.zeros(side, side, dtype=torch.float64)
    last[-1, -1] = 1.0
    broken = serpentine(side)
    broken[:, side // 2] = 0.0
    nan, inf = weights.clone(), weights.clone()
    nan[side // 2, 0], inf[0, side - 1] = float("nan"), float("-inf")
    maps = {
        "serpentine": serpentine(side),
        "standing serpentine": serpentine(side).T.contiguous(),
        "cut serpentine": broken,
        "spiral": spiral(side),
        "comb": comb(side),
        "upturned comb": comb(side).flip(0),
        "checkerboard": board,
        "grid of pixels": grid,
        "all but one pixel": 1.0 - one,
        "one pixel": one,
        "the last pixel": last,
    }
    uneven = {f"{name}, uneven": single * weights for name, single in maps.items()}
    none = {"constant": torch.full_like(one, 3.0), "nearly constant": 1e-5 * weights, "NaN": nan, "infinite": inf}
    return maps | uneven | none | {"every pixel": weights}
