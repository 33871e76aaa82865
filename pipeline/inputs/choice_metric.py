"""Choice of the metric that decides among configurations that are equal by the first objective.

It is made here if params.yaml leaves it to the data (`search.choose.then: auto`).
"""

from pipeline.config import Params
from pipeline.data.prepared.encoded import ImageRows
from pipeline.data.prepared.prepared import Prepared
from pipeline.data.splits.split import Ids
from pipeline.score.locate import count_rankable
from pipeline.tune.objectives.objectives import AUROC, AUTO, otherwise_by

MIN_MASKED = 50
"""Validation images with a usable mask from which on attention decides. Fewer do not distinguish configurations."""
BLOCK = 256
"""Number of masks that are read at once."""


def resolve_choice(params: Params, prepared: Prepared, val: Ids) -> Params:
    """Returns the parameters with `search.choose.then: auto` replaced by the metric that the data allow.

    Args:
        params: parameters as they were read.
        prepared: the prepared set.
        val: ids of the validation images.
    """
    if params.search.choose.then != AUTO:
        return params
    found = AUROC if has_masks_to_choose_by(prepared.masks, val) else otherwise_by(params)
    return params.with_values({"search.choose.then": found}, where="search.choose.then: auto")


def has_masks_to_choose_by(masks: ImageRows | None, val: Ids) -> bool:
    """Returns whether enough validation images have a mask with object and background.

    Reading stops as soon as the answer is certain.
    """
    return masks is not None and has_usable_masks(masks, val, least=MIN_MASKED)


def has_usable_masks(masks: ImageRows, ids: Ids, *, least: int = 1) -> bool:
    """Returns whether enough images have a mask with object and background.

    Reading stops as soon as the answer is certain.

    Args:
        masks: masks of the prepared set.
        ids: ids of the images.
        least: number of such images that is enough.
    """
    return len(ids) >= least and _count_usable(masks, ids, enough=least) >= least


def _count_usable(masks: ImageRows, ids: Ids, *, enough: int) -> int:
    """Returns how many images have a mask with object and background, counted until there are enough.

    Args:
        masks: masks of the prepared set.
        ids: ids of the images.
        enough: number from which on reading stops.
    """
    found = 0
    for start in range(0, len(ids), BLOCK):
        found += count_rankable(masks[ids[start : start + BLOCK]])
        if found >= enough:
            break
    return found


def explain_choice(params: Params, prepared: Prepared, val: Ids) -> str:
    """Returns why `resolve_choice` takes the metric that it takes, in words; empty if params.yaml names one.

    Args:
        params: parameters as they were read.
        prepared: the prepared set.
        val: ids of the validation images.
    """
    if params.search.choose.then != AUTO:
        return ""
    if prepared.masks is None:
        return "the set has no masks"
    found = _count_usable(prepared.masks, val, enough=MIN_MASKED)
    of = f"of the {len(val):,} validation images {'has' if found == 1 else 'have'} a mask with object and background"
    return (
        f"at least {MIN_MASKED} {of}" if found >= MIN_MASKED else f"{found} {of}; from {MIN_MASKED} on, {AUROC} decides"
    )
