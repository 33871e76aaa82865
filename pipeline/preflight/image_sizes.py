"""A sample of the source's files before they are prepared: effect of prepare.image_size, and odd masks, in words."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pipeline.config import Params
from pipeline.data.archive import format_names
from pipeline.data.decode.masks import ADVICE
from pipeline.data.decode.open_image import Size
from pipeline.data.sources.size_sample import sample_masks, sample_sizes
from pipeline.data.sources.source_config import SourceConfig
from pipeline.errors import UserError, list_first
from pipeline.inputs.source import source_config
from pipeline.workspace import Workspace

MUCH = 2.0
"""Ratio of the images' shorter side to the prepared side from which a loss is reported."""
T = TypeVar("T")

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
    sizes = _sample(sample_sizes, workspace, params)
    return size_lines(sizes, params.prepare.image_size) if sizes else []


def describe_masks(workspace: Workspace, params: Params) -> list[str]:
    """Returns lines about a sample of the masks of the user's own pictures; none if there are none to be read.

    Args:
        workspace: The checkout.
        params: All parameters.
    """
    remarks = _sample(sample_masks, workspace, params)
    return mask_lines(remarks) if remarks else []


def _sample(read: Callable[[SourceConfig], T], workspace: Workspace, params: Params) -> T | None:
    """Returns what a function reads of the source; None if the source cannot be read.

    Other checks report that it cannot be read. Without the source, data/prepared may suffice.

    Args:
        read: Reads a sample of a source.
        workspace: The checkout.
        params: All parameters.
    """
    try:
        return read(source_config(workspace, params))
    except UserError:
        return None


def mask_lines(remarks: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns lines about masks that were looked at.

    Args:
        remarks: Remarks about each mask, by name.
    """
    by_remark: dict[str, list[str]] = {}
    for name, found in remarks.items():
        for remark in found:
            by_remark.setdefault(remark, []).append(name)
    lines = [f"{'masks':<10}{len(remarks):,} looked at{'' if by_remark else ': nothing about them is odd'}"]
    for remark, names in sorted(by_remark.items(), key=lambda each: -len(each[1])):
        lines.append(f"{'':<10}{len(names):,} of these: {remark} ({list_first(map(format_names, names), 2)})")
        if remark in ADVICE:
            lines.append(f"{'':<10}{ADVICE[remark]} (docs/own-images/decoding.md)")
    return lines


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
