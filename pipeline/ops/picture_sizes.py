"""What becomes of the pictures at prepare.image_size, told before they are prepared."""

import statistics
from collections.abc import Sequence

from pipeline.config import Params
from pipeline.data.looking import look_at_sizes
from pipeline.data.opening import Size
from pipeline.errors import UserError
from pipeline.ops.source import source_settings
from pipeline.workspace import Workspace

MUCH = 2.0
"""So many times the prepared side, and more, is told as a loss."""
USUAL_SIDE, USUAL_PATCH = 224, 16


def describe_sizes(workspace: Workspace, params: Params) -> list[str]:
    """Lines about the sizes of some pictures, and about what is lost of them; none where they cannot be looked at."""
    try:
        sizes = look_at_sizes(source_settings(workspace, params))
    except UserError:  # told already where that is an error, and none where data/prepared is there
        return []
    return size_lines(sizes, params.prepare.image_size) if sizes else []


def size_lines(sizes: Sequence[Size], side: int) -> list[str]:
    """sizes: (H, W) of the pictures that were looked at. side: of the prepared squares."""
    heights, widths = zip(*sizes, strict=True)
    height, width = (int(statistics.median(values)) for values in (heights, widths))
    shorter = [min(size) for size in sizes]
    span = "" if len(set(shorter)) == 1 else f", shorter sides {min(shorter):,} to {max(shorter):,}"
    looked = f"median of {len(sizes)} looked at{span}" if len(sizes) > 1 else "all alike"
    lines = [f"{'pictures':<10}{width:,} x {height:,} pixels ({looked}) become {side} x {side}"]
    short = int(statistics.median(shorter))
    if short >= MUCH * side:
        fitting = min(USUAL_SIDE, short)
        fitting -= fitting % USUAL_PATCH if fitting >= 2 * USUAL_PATCH else 0
        lines.append(
            f"{'':<10}much is lost: one pixel for {round(short / side) ** 2:,} of the central square. To keep more, "
            f"set prepare.image_size (such as {fitting})"
        )
        lines.append(f"{'':<10}and model.kwargs to match (a patch_size that divides it, such as {_patch(fitting)})")
    return lines


def _patch(side: int) -> int:
    """A patch that gives a usual grid, of about 14 x 14."""
    return next((patch for patch in (16, 8, 4, 2) if side % patch == 0 and side // patch >= 8), 1)
