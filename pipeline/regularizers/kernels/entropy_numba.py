"""The regularisers' kernels on the CPU: rows of query-key products, and the spatial entropy of maps made of them.

Rows are read from what an attention projects its tokens to, in one pass: what `pipeline.models.rows` does with a dozen
calls of torch is one call here, forward and backward, since on small networks it is calls that cost. Queries and keys
are taken before their norms, which serves attentions that have none.

Spatial entropy, value and gradient, follows the equations of `pipeline.regularizers.spatial_entropy`. A map is read as
runs, the stretches of a row that lie above the cut: one run joins those of the row above that it touches (a union-find
over runs, of which there are far fewer than pixels), masses are summed by run, and the gradient is written by run too.
Sums are in float64 whatever the maps are of.

An image's result depends on nothing but the image, so it is the same for any number of threads.

Shapes: B images, L layers, A heads, T tokens, D channels of a head, H x W patches; S = T less the tokens that a row
leaves out.

Import this module only to run it: it imports numba, which takes most of a second.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.compute.compiled import compile_kernel, compile_reassociating_kernel
from pipeline.compute.threads import spread_over_threads
from pipeline.models.rows import RowSpec
from pipeline.regularizers.kernels.entropy_plain import NEARLY_CONSTANT

FEWEST_PIXELS = 50_000
"""A thread of its own pays from about as many pixels on: starting it costs as much as working on some thousands."""
FEWEST_VALUES = 600_000
"""The same for rows, in queries, keys and values."""

Reals = NDArray[np.floating]
TINY = float(np.finfo(np.float64).tiny)


def fused_entropy(
    maps: Tensor, thresholds: Tensor, connectivity: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropies, which maps are empty, and the gradient of each entropy by its own map.

    maps: (n, H, W) float32 or float64, on the CPU. thresholds: (n,) float64, one a map. Returns (n,) of the maps'
    dtype, (n,) bool, and (n, H, W) of the maps' dtype, or (0,) without the gradient.
    """
    given, width = _array(maps), maps.shape[-1]
    out = _made(given, with_gradient)
    _entropies(given, width, thresholds.detach().contiguous().numpy(), connectivity, with_gradient, *out)
    entropy, empty, gradient = (torch.from_numpy(each) for each in out)
    return entropy, empty, gradient.view(maps.shape if with_gradient else 0)


def fused_means(
    maps: Tensor, threshold: float, connectivity: int, *, least: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """What SAR makes of a batch, in as few calls as can be: on small networks it is calls that cost.

    maps: (B, L, A, H, W) float32 or float64, on the CPU. least: what a number of maps is at least taken for. Returns
    (3,) of the maps' dtype, which are the sum over layers of the mean entropy of maps that are not empty, the mean
    over all layers' maps, and the share of empty ones; and the gradient of the first by the maps, (B, L, A, H, W), or
    (0,).
    """
    _, layers, heads, _, width = maps.shape
    single = _array(maps)
    means, out = np.empty(3, single.dtype), _made(single, with_gradient)
    if single.size < 2 * FEWEST_PIXELS:  # which no two threads would share
        # numba takes a whole number for another type.
        _at_once(
            single,
            width,
            float(threshold),
            connectivity == 8,
            NEARLY_CONSTANT,
            *out,
            layers,
            heads,
            float(least),
            with_gradient,
            means,
        )
    else:
        _entropies(single, width, np.full(len(single), threshold), connectivity, with_gradient, *out)
        _average(*out, layers, heads, float(least), with_gradient, means)
    return torch.from_numpy(means), torch.from_numpy(out[2].reshape(maps.shape if with_gradient else 0))


def read_rows(projected: Reals, spec: RowSpec) -> Reals:
    """The rows (B, A, S) of the tokens from `spec.first` on, in the precision of `projected`.

    projected: (B, T, 3 A D), queries, keys and values side by side, contiguous, float32 or float64.
    """
    images, tokens, width = projected.shape
    row = np.empty((images, spec.heads, tokens - spec.first), projected.dtype)
    given = projected, *spec.with_query(tokens), spec.first, spec.scale, row
    if projected.size < 2 * FEWEST_VALUES:  # which no two threads would share
        _read(0, images, *given)
    else:
        spread_over_threads(_read, images, *given, least=_images(tokens * width))
    return row


def add_gradient(into: Reals, projected: Reals, gradient: Reals, spec: RowSpec) -> None:
    """Add what a gradient by the rows, (B, A, S), that `read_rows` reads leads to, to one by what was projected.

    into: that one, (B, T, 3 A D), contiguous.
    """
    images, tokens, width = projected.shape
    given = into, projected, gradient, *spec.with_query(tokens), spec.first, spec.scale
    if projected.size < 2 * FEWEST_VALUES:
        _add(0, images, *given)
    else:
        spread_over_threads(_add, images, *given, least=_images(tokens * width))


def compile_ahead() -> None:
    """Compile for float32 and keep that, so that no search spends these seconds; part of the installation."""
    for side in (2, math.isqrt(2 * FEWEST_PIXELS) + 1):
        fused_means(torch.zeros(1, 1, 1, side, side), 0.0, 8, least=1, with_gradient=True)
    projected, spec = np.zeros((1, 2, 3), np.float32), RowSpec(1, None, 1, 1.0)
    add_gradient(np.zeros_like(projected), projected, read_rows(projected, spec), spec)


def _images(values: int) -> int:
    return -(-FEWEST_VALUES // values)


def _array(maps: Tensor) -> Reals:
    """(..., H, W) as (n, H W)."""
    # Asking is much cheaper than having torch make contiguous what is.
    array: Reals = (maps if maps.is_contiguous() else maps.contiguous()).numpy(force=True)
    return array.reshape(-1, maps.shape[-2] * maps.shape[-1])


def _made(maps: Reals, with_gradient: bool) -> tuple[Reals, NDArray[np.bool_], Reals]:
    """What is to be filled in for maps (n, H W): entropies, which are empty, and gradients, or (0, 0)."""
    gradient = np.empty_like(maps) if with_gradient else np.empty((0, 0), maps.dtype)
    return np.empty(len(maps), maps.dtype), np.empty(len(maps), np.bool_), gradient


def _entropies(
    maps: Reals,
    width: int,
    thresholds: NDArray[np.float64],
    connectivity: int,
    with_gradient: bool,
    entropy: Reals,
    empty: NDArray[np.bool_],
    gradient: Reals,
) -> None:
    # numba keeps what it compiled while this file is the same, so a constant of another one must come as an argument.
    given = maps, width, thresholds, connectivity == 8, with_gradient, NEARLY_CONSTANT, entropy, empty, gradient
    spread_over_threads(_work_out, len(maps), *given, least=-(-FEWEST_PIXELS // maps.shape[1]))


@compile_kernel
def _work_out(
    begin: int,
    end: int,
    maps: Reals,
    width: int,
    thresholds: NDArray[np.float64],
    diagonal: bool,
    with_gradient: bool,
    nearly_constant: float,
    entropy: Reals,
    empty: NDArray[np.bool_],
    gradient: Reals,
) -> None:
    pixels = maps.shape[1]
    most = pixels // width * ((width + 1) // 2)
    centred, edges = np.empty(pixels), np.empty(width + 2, dtype=np.int64)
    first, last = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    parent, mass, slope = np.empty(most, dtype=np.int64), np.empty(most), np.empty(most)
    for place in range(begin, end):
        deviation = _centre(maps[place], centred)
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
            _write(gradient[place], centred, pull, factor, runs, first, last, slope)


@compile_kernel
def _average(
    entropy: Reals,
    empty: NDArray[np.bool_],
    gradient: Reals,
    layers: int,
    heads: int,
    least: float,
    with_gradient: bool,
    means: Reals,
) -> None:
    """Fill in `fused_means`' means, and divide the gradient by its layer's number of maps."""
    images = len(entropy) // (layers * heads)
    loss, whole, filled = 0.0, 0.0, 0
    for layer in range(layers):
        total, count = 0.0, 0
        for image in range(images):
            begin = (image * layers + layer) * heads
            for place in range(begin, begin + heads):
                total += np.float64(entropy[place])
                count += not empty[place]
        divisor = max(float(count), least)
        loss += total / divisor
        whole += total
        filled += count
        if with_gradient:
            for image in range(images):
                begin = (image * layers + layer) * heads
                for place in range(begin, begin + heads):
                    for at in range(gradient.shape[1]):
                        gradient[place, at] /= divisor
    means[0], means[1] = loss, whole / max(float(filled), least)
    means[2] = 1.0 - filled / len(entropy)


@compile_kernel
def _at_once(
    maps: Reals,
    width: int,
    threshold: float,
    diagonal: bool,
    nearly_constant: float,
    entropy: Reals,
    empty: NDArray[np.bool_],
    gradient: Reals,
    layers: int,
    heads: int,
    least: float,
    with_gradient: bool,
    means: Reals,
) -> None:
    """Both kernels in one call."""
    thresholds = np.full(len(maps), threshold)
    _work_out(0, len(maps), maps, width, thresholds, diagonal, with_gradient, nearly_constant, entropy, empty, gradient)
    _average(entropy, empty, gradient, layers, heads, least, with_gradient, means)


@compile_kernel
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


@compile_kernel
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


@compile_kernel
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


@compile_kernel
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


@compile_kernel
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


@compile_reassociating_kernel
def _read(begin: int, end: int, projected: Reals, start: int, stop: int, first: int, scale: float, row: Reals) -> None:
    images, tokens, width = projected.shape
    heads = row.shape[1]
    channels = width // (3 * heads)
    parts = projected.reshape(images, tokens, 3, heads, channels)
    pooled = np.empty((heads, channels), parts.dtype)
    for image in range(begin, end):
        _ask(parts[image], start, stop, scale / (stop - start), pooled)
        # Token by token, in the order in which they lie in memory.
        for token in range(first, tokens):
            for head in range(heads):
                key, ask = parts[image, token, 1, head], pooled[head]
                summed = key[0] * 0
                for at in range(channels):
                    summed += key[at] * ask[at]
                row[image, head, token - first] = summed


@compile_reassociating_kernel
def _add(
    begin: int,
    end: int,
    into: Reals,
    projected: Reals,
    share: Reals,
    start: int,
    stop: int,
    first: int,
    scale: float,
) -> None:
    """Each key is pulled to the pooled query, and that one to the sum of the keys, by the rows' gradient."""
    images, tokens, width = projected.shape
    heads = share.shape[1]
    channels, factor = width // (3 * heads), scale / (stop - start)
    parts = projected.reshape(images, tokens, 3, heads, channels)
    out = into.reshape(images, tokens, 3, heads, channels)
    pooled, pulled = np.empty((heads, channels), parts.dtype), np.empty((heads, channels), parts.dtype)
    for image in range(begin, end):
        _ask(parts[image], start, stop, factor, pooled)
        pulled[:] = 0
        for token in range(first, tokens):
            for head in range(heads):
                by_row = share[image, head, token - first]
                weight = by_row * factor
                key, pull = parts[image, token, 1, head], pulled[head]
                for at in range(channels):
                    pull[at] += weight * key[at]
                ask, into_key = pooled[head], out[image, token, 1, head]
                for at in range(channels):
                    into_key[at] += by_row * ask[at]
        for token in range(start, stop):
            for head in range(heads):
                pull, into_query = pulled[head], out[image, token, 0, head]
                for at in range(channels):
                    into_query[at] += pull[at]


@compile_reassociating_kernel
def _ask(image: Reals, start: int, stop: int, factor: float, query: Reals) -> None:
    """Fill in the mean query of some tokens, by head, scaled. factor: the scale over the number of tokens."""
    query[:] = 0
    heads, channels = query.shape
    for token in range(start, stop):
        for head in range(heads):
            for at in range(channels):
                query[head, at] += image[token, 0, head, at]
    for head in range(heads):
        for at in range(channels):
            query[head, at] *= factor
