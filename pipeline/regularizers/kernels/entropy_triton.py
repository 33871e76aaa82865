"""Spatial entropy on a GPU: value and gradient of a whole batch in one launch, the equations of
`pipeline.regularizers.spatial_entropy`.

One program works on one map. It finds mean and deviation, cuts, and packs every row into one word of 32 bits. Then it
floods one component after another: a word is filled along its row in ten shifts, and passed on to the rows above and
below, until nothing changes. Each component's mass and share go into the sum at once, and the gradient follows from
them. Nothing is written but the results, nothing is added atomically, and the host is never waited for: results are the
same in every run, and the launch can be captured in a CUDA graph.

Import this module only to run it: it imports triton. Under TRITON_INTERPRET=1, set before triton is imported, it runs
on the CPU, slowly, which is how the tests compare it with plain PyTorch.
"""

# Triton's functions are no Python to mypy: their arguments have the types that the launch gives them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.regularizers.kernels.entropy_plain import NEARLY_CONSTANT

LARGEST_SIDE = 32
"""Of a grid: a row is one word."""

PIXELS_OF_A_WARP = 256
"""A warp that holds more of a map than this runs out of registers."""

TINY = float(torch.finfo(torch.float64).tiny)


def triton_entropy(
    maps: Tensor, threshold: float | Tensor, connectivity: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropies, which maps are empty, and the gradient of each entropy by its own map.

    maps: (n, H, W) float32 or float64, H and W at most 32. threshold: of all maps, or (n,) float64 on their device.
    Returns (n,) of the maps' dtype, (n,) bool, and (n, H, W) of the maps' dtype, or (0,) without the gradient.

    Raises:
        ValueError: a larger grid.
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
        threshold if one_a_map else maps,  # a pointer that is not read
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
        enable_fp_fusion=False,  # so that every product is rounded as plain PyTorch rounds it
    )
    return entropy, empty, gradient


# A size of 1 would be made a constant, and constants have no methods.
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
    place = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, height_block), tl.arange(0, width_block)
    on_grid = (rows < height)[:, None] & (columns < width)[None, :]
    at = place * height * width + rows[:, None] * width + columns[None, :]
    pixels = (height * width).to(tl.float64)

    # float64 whatever the maps are of, as in plain PyTorch: which pixels are above the cut must not depend on rounding.
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
    return tl.sum(tl.sum(values, axis=1), axis=0)


@triton.jit
def _flood(component, words, rows, diagonal: tl.constexpr, height_block: tl.constexpr):
    """What of the words' bits is connected with the component's, row by row."""
    above, below = tl.maximum(rows - 1, 0), tl.minimum(rows + 1, height_block - 1)
    component = _along_the_row(component, words)
    changed = tl.max(component, axis=0)
    while changed > 0:
        # The first row is passed on to itself, and so is the last one, which adds nothing, or what is theirs anyway.
        reached = tl.gather(component, above, 0) | tl.gather(component, below, 0)
        if diagonal:
            reached = reached | (reached << 1) | (reached >> 1)
        grown = _along_the_row((component | reached) & words, words)
        changed = tl.max(grown ^ component, axis=0)
        component = grown
    return component


@triton.jit
def _along_the_row(seeds, words):
    """The runs of ones in each word that have a seed: a fill by doubling, to the higher bits and to the lower ones."""
    up, down, open_up, open_down = seeds, seeds, words, words
    for step in tl.static_range(5):
        up = up | (open_up & (up << (1 << step)))
        open_up = open_up & (open_up << (1 << step))
        down = down | (open_down & (down >> (1 << step)))
        open_down = open_down & (open_down >> (1 << step))
    return up | down
