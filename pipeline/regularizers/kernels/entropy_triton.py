"""Spatial entropy on a GPU: value and gradient of a whole batch in one launch.

It follows the equations of `pipeline.regularizers.spatial_entropy`. One program processes one map. It
computes mean and deviation, cuts the map, and packs every row into one word of 32 bits. Then it floods one
component after another: a word is filled along its row in ten shifts, and passed to the rows above and below,
until nothing changes. Each component's share is added to the entropy at once, and the gradient follows from
the shares.

Only the results are written to memory, there are no atomic additions, and the host is never waited for. So
the results are the same in every run, and the launch can be captured in a CUDA graph.

Import this module only to run it: it imports triton. If TRITON_INTERPRET=1 is set before triton is imported,
it runs on the CPU, slowly; the tests compare it with plain PyTorch in this way.
"""

# mypy cannot check Triton's functions: their arguments get their types at the launch.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.regularizers.kernels.entropy_plain import NEARLY_CONSTANT

LARGEST_SIDE = 32
"""Largest side of a grid, since a row is one word of 32 bits."""

PIXELS_OF_A_WARP = 256
"""Most pixels of a map per warp; with more, a warp runs out of registers."""

TINY = float(torch.finfo(torch.float64).tiny)


def triton_entropy(
    maps: Tensor, threshold: float | Tensor, connectivity: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes entropies, empty maps, and the gradient of each entropy by its own map.

    Args:
        maps: (n, H, W), float32 or float64, H and W at most 32.
        threshold: Standard deviations above the mean at which a map is cut: one number for all maps, or (n,)
            float64 on the maps' device.
        connectivity: 4 or 8 neighbours.
        with_gradient: Whether the gradient is computed.

    Returns:
        Entropies (n,) of the maps' dtype; whether each map is empty, (n,) bool; and gradients (n, H, W) of
        the maps' dtype, or (0,) without the gradient.

    Raises:
        ValueError: If the grid is larger than 32 x 32.
    """
    count, height, width = maps.shape
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"a grid of {height} x {width} is beyond {LARGEST_SIDE} x {LARGEST_SIDE}")
    maps = maps.detach().contiguous()
    entropy, empty = maps.new_empty(count), maps.new_empty(count, dtype=torch.bool)
    gradient = torch.empty_like(maps) if with_gradient else maps.new_empty(0)
    one_a_map = isinstance(threshold, Tensor)
    rows, columns = triton.next_power_of_2(height), triton.next_power_of_2(width)
    _one_map[(count,)](
        maps,
        threshold if one_a_map else maps,  # any pointer; it is not read
        0.0 if one_a_map else threshold,
        entropy,
        empty,
        gradient,
        height,
        width,
        one_a_map=one_a_map,
        diagonal=connectivity == 8,
        with_gradient=with_gradient,
        nearly_constant=NEARLY_CONSTANT,
        tiny=TINY,
        height_block=rows,
        width_block=columns,
        num_warps=max(1, rows * columns // PIXELS_OF_A_WARP),
        enable_fp_fusion=False,  # rounds every product as plain PyTorch does
    )
    return entropy, empty, gradient


# Triton would turn a size of 1 into a constant, which has no method `to`.
@triton.jit(do_not_specialize=["height", "width"])
def _one_map(
    maps,
    thresholds,
    threshold: tl.float64,
    entropy,
    empty,
    gradient,
    height,
    width,
    one_a_map: tl.constexpr,
    diagonal: tl.constexpr,
    with_gradient: tl.constexpr,
    nearly_constant: tl.constexpr,
    tiny: tl.constexpr,
    height_block: tl.constexpr,
    width_block: tl.constexpr,
):
    """Computes entropy, emptiness and gradient of one map; the program's index is the map's.

    Args:
        maps: Pointer, (n, H, W).
        thresholds: Pointer to one threshold per map, (n,) float64; not read unless `one_a_map`.
        threshold: Threshold of all maps, unless `one_a_map`.
        entropy: Output pointer, (n,).
        empty: Output pointer, (n,).
        gradient: Output pointer, (n, H, W); not written unless `with_gradient`.
        height: H.
        width: W.
        one_a_map: Whether each map has its own threshold.
        diagonal: Whether diagonal neighbours count (connectivity 8).
        with_gradient: Whether the gradient is written.
        nearly_constant: Standard deviation below which a map is empty.
        tiny: Smallest share whose logarithm is taken.
        height_block: H rounded up to a power of two.
        width_block: W rounded up to a power of two.
    """
    place = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, height_block), tl.arange(0, width_block)
    on_grid = (rows < height)[:, None] & (columns < width)[None, :]
    at = place * height * width + rows[:, None] * width + columns[None, :]
    pixels = (height * width).to(tl.float64)

    # float64 whatever the maps' dtype, as in plain PyTorch: rounding must not decide which pixels are above the cut.
    values = tl.load(maps + at, mask=on_grid, other=0.0).to(tl.float64)
    mean = _total(values) / pixels
    centred = tl.where(on_grid, values - mean, 0.0)
    deviation = tl.sqrt(_total(centred * centred) / pixels)
    if one_a_map:
        threshold = tl.load(thresholds + place)
    # NaN fails both comparisons; an infinity anywhere makes the mean, and so the deviation, not finite.
    usable = (deviation >= nearly_constant) & (deviation < float("inf"))
    cut = tl.where(usable, threshold * deviation, float("inf"))
    inside = on_grid & (centred > cut)
    excess = tl.where(inside, centred - cut, 0.0)
    total = _total(excess)
    filled = total > 0.0
    whole = tl.where(filled, total, 1.0)

    words = tl.sum(tl.where(inside, 1 << columns.to(tl.uint32)[None, :], 0).to(tl.uint32), axis=1)
    words = words.to(tl.uint32)
    remaining = words
    left = tl.max(remaining, axis=0)
    log_share = tl.zeros((height_block, width_block), tl.float64)
    value = tl.sum(tl.zeros((height_block,), tl.float64), axis=0)
    while left > 0:
        row = tl.min(tl.where(remaining != 0, rows, height_block), axis=0)
        component = tl.where(rows == row, remaining & (~remaining + 1), 0).to(tl.uint32)
        component = _flood(component, words, rows, diagonal, height_block)
        member = ((component[:, None] >> columns.to(tl.uint32)[None, :]) & 1) != 0
        share = _total(tl.where(member, excess, 0.0)) / whole
        logarithm = tl.log(tl.maximum(share, tiny))
        value -= share * logarithm
        log_share = tl.where(member, logarithm, log_share)
        remaining = remaining & ~component
        left = tl.max(remaining, axis=0)

    tl.store(entropy + place, value)
    tl.store(empty + place, total <= 0.0)
    if with_gradient:
        slope = tl.where(inside, -(log_share + value) / whole, 0.0)
        pull = _total(slope) / pixels
        steady = tl.where(filled, deviation, 1.0)
        found = slope - pull - threshold * pull * centred / steady
        tl.store(gradient + at, tl.where(filled, found, 0.0), mask=on_grid)


@triton.jit
def _total(values):
    """Returns the sum over both axes."""
    return tl.sum(tl.sum(values, axis=1), axis=0)


@triton.jit
def _flood(component, words, rows, diagonal: tl.constexpr, height_block: tl.constexpr):
    """Returns the bits of `words` that are connected with those of `component`, row by row.

    Args:
        component: Bits of the component found so far, one word per row.
        words: Bits above the cut, one word per row.
        rows: Indices of the rows.
        diagonal: Whether diagonal neighbours count (connectivity 8).
        height_block: Number of rows.
    """
    above, below = tl.maximum(rows - 1, 0), tl.minimum(rows + 1, height_block - 1)
    component = _along_the_row(component, words)
    changed = tl.max(component, axis=0)
    while changed > 0:
        # At the border, a row is its own neighbour. That adds only bits of its own run.
        reached = tl.gather(component, above, 0) | tl.gather(component, below, 0)
        if diagonal:
            reached = reached | (reached << 1) | (reached >> 1)
        grown = _along_the_row((component | reached) & words, words)
        changed = tl.max(grown ^ component, axis=0)
        component = grown
    return component


@triton.jit
def _along_the_row(seeds, words):
    """Returns the runs of ones in each word that hold a seed.

    The fill doubles its reach with each step, towards the higher bits and towards the lower ones.
    """
    up, down, open_up, open_down = seeds, seeds, words, words
    for step in tl.static_range(5):
        up = up | (open_up & (up << (1 << step)))
        open_up = open_up & (open_up << (1 << step))
        down = down | (open_down & (down >> (1 << step)))
        open_down = open_down & (open_down >> (1 << step))
    return up | down
