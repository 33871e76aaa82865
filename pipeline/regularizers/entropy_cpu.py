"""Spatial entropy on the CPU: value and gradient of a whole batch in one compiled pass, the equations of
`pipeline.regularizers.spatial_entropy`.

A map is read as runs, the stretches of a row that lie above the cut: one run joins those of the row above that it
touches (a union-find over runs, of which there are far fewer than pixels), masses are summed by run, and the gradient
is written by run too. Sums are in float64 whatever the maps are of. A map's result depends on nothing but the map, so
it is the same for any number of threads.

Import this module only to run it: it imports numba, which takes most of a second.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.compiled import compiled
from pipeline.data.threads import spread
from pipeline.regularizers.entropy_plain import NEARLY_CONSTANT

FEWEST_PIXELS = 50_000
"""A thread of its own pays from about as many pixels on: starting it costs as much as working on some thousands."""

Reals = NDArray[np.floating]
TINY = float(np.finfo(np.float64).tiny)


def fused_entropy(
    maps: Tensor, thresholds: Tensor, connectivity: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropies, which maps are empty, and the gradient of each entropy by its own map.

    maps: (n, H, W) float32 or float64, on the CPU. thresholds: (n,) float64, one a map. Returns (n,) of the maps'
    dtype, (n,) bool, and (n, H, W) of the maps' dtype, or (0,) without the gradient.
    """
    maps = maps.detach().contiguous()
    count, height, width = maps.shape
    entropy, empty = maps.new_empty(count), torch.empty(count, dtype=torch.bool)
    gradient = torch.empty_like(maps) if with_gradient else maps.new_empty(0, 0, 0)
    # numba keeps what it compiled while this file is the same, so a constant of another one must come as an argument.
    given = maps.numpy(), thresholds.detach().contiguous().numpy(), connectivity == 8, with_gradient, NEARLY_CONSTANT
    taken = entropy.numpy(), empty.numpy(), gradient.numpy()
    least = -(-FEWEST_PIXELS // (height * width))
    spread(lambda begin, end: _work_out(*given, *taken, begin, end), count, least=least)
    return entropy, empty, gradient if with_gradient else gradient.view(0)


@compiled
def _work_out(
    maps: Reals,
    thresholds: NDArray[np.float64],
    diagonal: bool,
    with_gradient: bool,
    nearly_constant: float,
    entropy: Reals,
    empty: NDArray[np.bool_],
    gradient: Reals,
    begin: int,
    end: int,
) -> None:
    height, width = maps.shape[1:]
    pixels = height * width
    most = height * ((width + 1) // 2)
    centred, edges = np.empty(pixels), np.empty(width + 2, dtype=np.int64)
    first, last = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    parent, mass, slope = np.empty(most, dtype=np.int64), np.empty(most), np.empty(most)
    for place in range(begin, end):
        single = maps[place].reshape(pixels)
        deviation = _centre(single, centred)
        cut = thresholds[place] * deviation
        runs, total = 0, 0.0
        # Written so that NaN fails it; an infinity anywhere makes the mean, and so the deviation, not finite.
        if deviation >= nearly_constant and deviation < math.inf:
            runs = _find_runs(centred, cut, width, diagonal, edges, first, last, parent, mass)
        for run in range(runs):
            total += mass[run]
        empty[place] = not total > 0.0
        if not total > 0.0:
            entropy[place] = 0.0
            if with_gradient:
                gradient[place] = 0.0
            continue
        value = _share_out(runs, total, parent, mass)
        entropy[place] = value
        if with_gradient:
            pull = 0.0
            for run in range(runs):
                slope[run] = -(mass[parent[run]] + value) / total
                pull += slope[run] * (last[run] - first[run])
            pull /= pixels
            factor = thresholds[place] / deviation * pull
            _write(gradient[place].reshape(pixels), centred, pull, factor, runs, first, last, slope)


@compiled
def _centre(single: Reals, centred: NDArray[np.float64]) -> float:
    """Fill in a map less its mean; returns its population standard deviation."""
    # Four sums side by side: one alone would wait for each addition.
    count = len(single)
    whole = count - count % 4
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for at in range(0, whole, 4):
        a += np.float64(single[at])
        b += np.float64(single[at + 1])
        c += np.float64(single[at + 2])
        d += np.float64(single[at + 3])
    for at in range(whole, count):
        a += np.float64(single[at])
    mean = ((a + b) + (c + d)) / count
    for at in range(count):
        centred[at] = np.float64(single[at]) - mean
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for at in range(0, whole, 4):
        a += centred[at] * centred[at]
        b += centred[at + 1] * centred[at + 1]
        c += centred[at + 2] * centred[at + 2]
        d += centred[at + 3] * centred[at + 3]
    for at in range(whole, count):
        a += centred[at] * centred[at]
    return math.sqrt(((a + b) + (c + d)) / count)


@compiled
def _find_runs(
    centred: NDArray[np.float64],
    cut: float,
    width: int,
    diagonal: bool,
    edges: NDArray[np.int64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    parent: NDArray[np.int64],
    mass: NDArray[np.float64],
) -> int:
    """The runs above the cut: first pixel, pixel behind the last one, mass, and an earlier one of its component.

    Returns how many there are.
    """
    reach = 1 if diagonal else 0
    runs, above, begin = 0, 0, 0  # the row above has the runs from `above` to `begin`
    for row in range(0, len(centred), width):
        # Where the row crosses the cut, without a branch: on noise a branch would be guessed wrong half the time.
        crossings, inside = 0, False
        for column in range(width):
            now = centred[row + column] > cut
            edges[crossings] = row + column
            crossings += now != inside
            inside = now
        edges[crossings] = row + width
        crossings += inside
        above, begin = begin, runs
        near = above
        for crossing in range(0, crossings, 2):
            start, stop = edges[crossing], edges[crossing + 1]
            summed = 0.0
            for at in range(start, stop):
                summed += centred[at] - cut
            first[runs], last[runs], mass[runs], parent[runs] = start, stop, summed, runs
            while near < begin and last[near] + width + reach <= start:
                near += 1
            touching = near
            while touching < begin and first[touching] + width < stop + reach:
                _join(parent, touching, runs)
                touching += 1
            runs += 1
    return runs


@compiled
def _join(parent: NDArray[np.int64], one: int, other: int) -> None:
    """Make two runs one component, under the earlier of their roots."""
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    while parent[other] != other:
        parent[other] = parent[parent[other]]
        other = parent[other]
    if one < other:
        parent[other] = one
    else:
        parent[one] = other


@compiled
def _share_out(runs: int, total: float, parent: NDArray[np.int64], mass: NDArray[np.float64]) -> float:
    """The entropy of the components' shares; leaves every run its root, and every root the logarithm of its share."""
    for run in range(runs):
        root = parent[parent[run]]  # a run's parent comes before it, and has its root already
        parent[run] = root
        if root != run:
            mass[root] += mass[run]
    value = 0.0
    for run in range(runs):
        if parent[run] == run:
            share = mass[run] / total
            mass[run] = math.log(max(share, TINY))
            value -= share * mass[run]
    return value


@compiled
def _write(
    out: Reals,
    centred: NDArray[np.float64],
    pull: float,
    factor: float,
    runs: int,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    slope: NDArray[np.float64],
) -> None:
    """The gradient of one map: slope (of each run) - pull - factor * centred."""
    for at in range(len(centred)):
        out[at] = -pull - factor * centred[at]
    for run in range(runs):
        base = slope[run] - pull
        for at in range(first[run], last[run]):
            out[at] = base - factor * centred[at]
