"""Effect of prepare.image_size on the source's images, described before they are prepared."""

import math
import statistics
from collections.abc import Sequence

from pipeline.config import Params
from pipeline.data.decode.open_image import Size
from pipeline.data.sources.size_sample import sample_sizes
from pipeline.errors import UserError
from pipeline.inputs.source import source_config
from pipeline.workspace import Workspace

MUCH = 2.0
"""Ratio of the images' shorter side to the prepared side from which a loss is reported."""
WORTH = 1.5
"""Ratio of a larger side to the prepared side from which the larger side is advised."""
HALF = 0.5
"""Share of an image cut off from which the cut is reported."""
USUAL_SIDE, USUAL_PATCH, SMALL_STEP = 224, 16, 4
"""Largest side that is advised, the patch that should divide it, and the step for smaller sides."""


def describe_sizes(workspace: Workspace, params: Params) -> list[str]:
    """Returns lines about the sizes of a sample of images, and about what is lost of them; none if they cannot be read.

    Args:
        workspace: The checkout.
        params: All parameters.
    """
    try:
        sizes = sample_sizes(source_config(workspace, params))
    except UserError:  # other checks report it; without the source, data/prepared may suffice
        return []
    return size_lines(sizes, params.prepare.image_size) if sizes else []


def size_lines(sizes: Sequence[Size], side: int) -> list[str]:
    """Returns lines about the sizes of images, and about what preparing them to squares loses.

    Args:
        sizes: Sizes (H, W) of the sampled images.
        side: Side of the prepared squares.
    """
    heights, widths = zip(*sizes, strict=True)
    height, width = (int(statistics.median(values)) for values in (heights, widths))
    shorter = [min(size) for size in sizes]
    span = "" if len(set(shorter)) == 1 else f", shorter sides {min(shorter):,} to {max(shorter):,}"
    looked = f"median of {len(sizes)} looked at{span}" if len(sizes) > 1 else "all alike"
    lines = [f"{'pictures':<10}{width:,} x {height:,} pixels ({looked}) become {side} x {side}"]
    cut = statistics.median(1 - min(size) / max(size) for size in sizes)
    if cut >= HALF:
        kept = f"{math.floor(1000 * cut) / 10:g} % of a picture is cut off: only its central square is kept"
        lines.append(f"{'':<10}{kept}. To keep more, cut")
        lines.append(f"{'':<10}long pictures into squares, or fill them up to squares, before they are prepared")
    short = int(statistics.median(shorter))
    fitting = _fitting(short)
    if short >= MUCH * side and fitting >= WORTH * side:
        lines.append(
            f"{'':<10}much detail is lost: one pixel replaces {round((short / side) ** 2):,} of the central square. To "
            f"keep more, set prepare.image_size (such as {fitting})"
        )
        lines.append(f"{'':<10}and model.kwargs to match (a patch_size that divides it, such as {_patch(fitting)})")
    return lines


def _fitting(short: int) -> int:
    """Returns a side up to the usual one that keeps as much as the images have, and that a usual patch divides."""
    most = min(USUAL_SIDE, short)
    return most - most % (USUAL_PATCH if most >= 2 * USUAL_PATCH else SMALL_STEP)


def _patch(side: int) -> int:
    """Returns a patch side that gives a grid of about 14 x 14; for small images at least 2."""
    return next((patch for patch in (16, 8, 4) if side % patch == 0 and side // patch >= 8), 2)
