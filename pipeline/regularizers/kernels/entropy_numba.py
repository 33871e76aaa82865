"""Kernels on the CPU: rows of query-key products, and the spatial entropy of similarity maps.

Rows are computed in one pass over an attention's fused QKV projection. One call here, forward and backward,
replaces a dozen calls of torch in `pipeline.models.rows`; on small networks the number of calls decides the
time. Queries and keys are read before their norms, so these kernels serve attentions without such norms only.

Spatial entropy, value and gradient, follows the equations of `pipeline.regularizers.spatial_entropy`. A map
is processed as runs, the stretches of a row that lie above the cut. Each run joins the runs of the row above
that it touches, by a union-find over runs, of which there are far fewer than pixels. Masses are summed, and
the gradient is written, run by run. Sums are in float64 whatever the dtype of the maps.

The result of an image depends on that image alone, so it is the same for any number of threads.

Shapes: B images, L layers, A heads, T tokens, D channels of a head, H x W patches; S = T less the tokens that
a row leaves out.

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
"""Fewest pixels per thread, since starting a thread costs as much as processing some thousands of pixels."""
FEWEST_VALUES = 600_000
"""Fewest values of queries, keys and values per thread, for the same reason."""

Reals = NDArray[np.floating]
TINY = float(np.finfo(np.float64).tiny)


def fused_entropy(
    maps: Tensor, thresholds: Tensor, connectivity: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes entropies, empty maps, and the gradient of each entropy by its own map.

    Args:
        maps: (n, H, W), float32 or float64, on the CPU.
        thresholds: Standard deviations above the mean at which each map is cut, (n,) float64.
        connectivity: 4 or 8 neighbours.
        with_gradient: Whether the gradient is computed.

    Returns:
        Entropies (n,) of the maps' dtype; whether each map is empty, (n,) bool; and gradients (n, H, W) of
        the maps' dtype, or (0,) without the gradient.
    """
    given, width = _array(maps), maps.shape[-1]
    out = _made(given, with_gradient)
    _entropies(given, width, thresholds.detach().contiguous().numpy(), connectivity, with_gradient, *out)
    entropy, empty, gradient = (torch.from_numpy(each) for each in out)
    return entropy, empty, gradient.view(maps.shape if with_gradient else 0)


def fused_means(
    maps: Tensor, threshold: float, connectivity: int, *, least: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Computes SAR's loss and monitors of a batch, in as few calls as possible.

    Args:
        maps: (B, L, A, H, W), float32 or float64, on the CPU.
        threshold: Standard deviations above the mean at which each map is cut.
        connectivity: 4 or 8 neighbours.
        least: Smallest divisor of a mean; it replaces smaller numbers of maps.
        with_gradient: Whether the gradient is computed.

    Returns:
        Three means, (3,) of the maps' dtype: the loss, which is the sum over layers of the mean entropy of
        maps that are not empty; the same mean over all layers' maps; and the share of empty maps. Then the
        gradient of the loss by the maps, (B, L, A, H, W), or (0,) without the gradient.
    """
    _, layers, heads, _, width = maps.shape
    single = _array(maps)
    means, out = np.empty(3, single.dtype), _made(single, with_gradient)
    if single.size < 2 * FEWEST_PIXELS:  # too few for two threads
        # An int would make numba compile another version, hence float().
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
    """Returns rows of query-key products (B, A, S), in the dtype of `projected`.

    Args:
        projected: Queries, keys and values side by side, (B, T, 3 A D), contiguous, float32 or float64.
        spec: How the rows are read. S counts the tokens from `spec.first` on.
    """
    images, tokens, width = projected.shape
    row = np.empty((images, spec.heads, tokens - spec.first), projected.dtype)
    given = projected, *spec.with_query(tokens), spec.first, spec.scale, row
    if projected.size < 2 * FEWEST_VALUES:  # too few for two threads
        _read(0, images, *given)
    else:
        spread_over_threads(_read, images, *given, least=_images(tokens * width))
    return row


def add_gradient(into: Reals, projected: Reals, gradient: Reals, spec: RowSpec) -> None:
    """Adds the gradient that flows through the rows to the gradient by the projection.

    Args:
        into: Gradient by the projection, (B, T, 3 A D), contiguous. It is changed in place.
        projected: The projection from which `read_rows` computed the rows, (B, T, 3 A D).
        gradient: Gradient by the rows, (B, A, S).
        spec: How the rows are read.
    """
    images, tokens, width = projected.shape
    given = into, projected, gradient, *spec.with_query(tokens), spec.first, spec.scale
    if projected.size < 2 * FEWEST_VALUES:
        _add(0, images, *given)
    else:
        spread_over_threads(_add, images, *given, least=_images(tokens * width))


def compile_ahead() -> None:
    """Compiles the kernels for float32 and caches them, so that no search spends these seconds.

    It is part of the installation.
    """
    for side in (2, math.isqrt(2 * FEWEST_PIXELS) + 1):
        fused_means(torch.zeros(1, 1, 1, side, side), 0.0, 8, least=1, with_gradient=True)
    projected, spec = np.zeros((1, 2, 3), np.float32), RowSpec(1, None, 1, 1.0)
    add_gradient(np.zeros_like(projected), projected, read_rows(projected, spec), spec)


def _images(values: int) -> int:
    """Returns the fewest images per thread, for images of so many values."""
    return -(-FEWEST_VALUES // values)


def _array(maps: Tensor) -> Reals:
    """Returns maps (..., H, W) as an array (n, H W)."""
    # Calling contiguous() on a contiguous tensor costs much more than asking whether it is one.
    array: Reals = (maps if maps.is_contiguous() else maps.contiguous()).numpy(force=True)
    return array.reshape(-1, maps.shape[-2] * maps.shape[-1])


def _made(maps: Reals, with_gradient: bool) -> tuple[Reals, NDArray[np.bool_], Reals]:
    """Allocates entropies (n,), empty maps (n,), and gradients (n, H W), or (0, 0) without, of maps (n, H W)."""
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
    """Fills the three outputs of `_made`, spread over threads.

    Args:
        maps: (n, H W).
        width: W.
        thresholds: (n,).
        connectivity: 4 or 8 neighbours.
        with_gradient: Whether the gradient is written.
        entropy: Output, (n,).
        empty: Output, (n,).
        gradient: Output, (n, H W), or (0, 0).
    """
    # numba's cache is invalidated by changes of this file alone, so another module's constant must be an argument.
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
    """Fills the outputs of the maps from `begin` up to `end`.

    Args:
        begin: First map.
        end: One past the last map.
        maps: (n, H W).
        width: W.
        thresholds: (n,).
        diagonal: Whether diagonal neighbours count (connectivity 8).
        with_gradient: Whether the gradient is written.
        nearly_constant: Standard deviation below which a map is empty.
        entropy: Output, (n,).
        empty: Output, (n,).
        gradient: Output, (n, H W), or (0, 0).
    """
    pixels = maps.shape[1]
    most = pixels // width * ((width + 1) // 2)
    centred, edges = np.empty(pixels), np.empty(width + 2, dtype=np.int64)
    first, last = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    parent, mass, slope = np.empty(most, dtype=np.int64), np.empty(most), np.empty(most)
    for place in range(begin, end):
        deviation = _centre(maps[place], centred)
        cut = thresholds[place] * deviation
        runs, total = 0, 0.0
        # NaN fails this comparison. An infinity anywhere makes the mean, and so the deviation, not finite.
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
    """Computes the means of `fused_means`, and divides the gradient by the number of maps of its layer.

    Args:
        entropy: Entropies of maps in the order image, layer, head, (n,).
        empty: Whether each map is empty, (n,).
        gradient: (n, H W), changed in place; (0, 0) without.
        layers: L.
        heads: A.
        least: Smallest divisor of a mean.
        with_gradient: Whether there is a gradient.
        means: Output, (3,).
    """
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
    """Runs `_work_out` and `_average` in one call, which saves the cost of a second one.

    Args:
        maps: (n, H W).
        width: W.
        threshold: Threshold of all maps.
        diagonal: Whether diagonal neighbours count (connectivity 8).
        nearly_constant: Standard deviation below which a map is empty.
        entropy: Output, (n,).
        empty: Output, (n,).
        gradient: Output, (n, H W), or (0, 0).
        layers: L.
        heads: A.
        least: Smallest divisor of a mean.
        with_gradient: Whether the gradient is written.
        means: Output, (3,).
    """
    thresholds = np.full(len(maps), threshold)
    _work_out(0, len(maps), maps, width, thresholds, diagonal, with_gradient, nearly_constant, entropy, empty, gradient)
    _average(entropy, empty, gradient, layers, heads, least, with_gradient, means)


@compile_kernel
def _centre(single: Reals, centred: NDArray[np.float64]) -> float:
    """Writes a map less its mean to `centred`, and returns the map's population standard deviation."""
    # Four independent sums: a single one would wait for each addition.
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
    """Finds the runs of a map above its cut, and links each run to an earlier one of its component.

    Args:
        centred: The map less its mean, (H W,).
        cut: Cut above the mean.
        width: W.
        diagonal: Whether diagonal neighbours count (connectivity 8).
        edges: Workspace for the columns at which a row crosses the cut, (W + 2,).
        first: Output, the first pixel of each run.
        last: Output, one past the last pixel of each run.
        parent: Output, an earlier run of the same component, or the run itself.
        mass: Output, the sum above the cut of each run.

    Returns:
        The number of runs.
    """
    reach = 1 if diagonal else 0
    runs, above, begin = 0, 0, 0  # the runs of the row above are those from `above` up to `begin`
    for row in range(0, len(centred), width):
        # Finds the crossings of the cut without a branch: on noise, half of the branch predictions would be wrong.
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
    """Merges the components of two runs, under the earlier of their roots.

    Args:
        parent: Parents of runs, changed in place.
        one: A run.
        other: A run.
    """
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
    """Computes the entropy of the components' shares of the mass.

    Args:
        runs: Number of runs.
        total: Mass of all runs.
        parent: Parents of runs. Afterwards it holds the root of every run.
        mass: Masses of runs. Afterwards it holds, at every root, the logarithm of the component's share.

    Returns:
        The entropy in nats.
    """
    for run in range(runs):
        root = parent[parent[run]]  # a run's parent precedes it, so its own root is already known
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
    """Writes the gradient of one map: -pull - factor * centred, and within a run its slope added to that.

    Args:
        out: Output, (H W,).
        centred: The map less its mean, (H W,).
        pull: Mean over all pixels of the slopes, for the path through the mean.
        factor: Factor of the path through the standard deviation.
        runs: Number of runs.
        first: First pixel of each run.
        last: One past the last pixel of each run.
        slope: Derivative of the entropy by the mass of each run.
    """
    for at in range(len(centred)):
        out[at] = -pull - factor * centred[at]
    for run in range(runs):
        base = slope[run] - pull
        for at in range(first[run], last[run]):
            out[at] = base - factor * centred[at]


@compile_reassociating_kernel
def _read(begin: int, end: int, projected: Reals, start: int, stop: int, first: int, scale: float, row: Reals) -> None:
    """Computes the rows of the images from `begin` up to `end`.

    Args:
        begin: First image.
        end: One past the last image.
        projected: Queries, keys and values, (B, T, 3 A D).
        start: First token whose query is pooled.
        stop: One past the last such token.
        first: First token whose key is read.
        scale: Scale of the products.
        row: Output, (B, A, S).
    """
    images, tokens, width = projected.shape
    heads = row.shape[1]
    channels = width // (3 * heads)
    parts = projected.reshape(images, tokens, 3, heads, channels)
    pooled = np.empty((heads, channels), parts.dtype)
    for image in range(begin, end):
        _ask(parts[image], start, stop, scale / (stop - start), pooled)
        # Token by token, which is the order in memory.
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
    """Adds the rows' gradient to that of keys and queries, for the images from `begin` up to `end`.

    The gradient by each key is along the pooled query, and the gradient by the pooled query along the
    weighted sum of keys.

    Args:
        begin: First image.
        end: One past the last image.
        into: Gradient by the projection, (B, T, 3 A D), changed in place.
        projected: Queries, keys and values, (B, T, 3 A D).
        share: Gradient by the rows, (B, A, S).
        start: First token whose query is pooled.
        stop: One past the last such token.
        first: First token whose key is read.
        scale: Scale of the products.
    """
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
    """Writes the scaled sum of some tokens' queries, by head.

    Args:
        image: Queries, keys and values of one image, (T, 3, A, D).
        start: First token.
        stop: One past the last token.
        factor: Scale of the products divided by the number of tokens, which makes the sum a scaled mean.
        query: Output, (A, D).
    """
    query[:] = 0
    heads, channels = query.shape
    for token in range(start, stop):
        for head in range(heads):
            for at in range(channels):
                query[head, at] += image[token, 0, head, at]
    for head in range(heads):
        for at in range(channels):
            query[head, at] *= factor
