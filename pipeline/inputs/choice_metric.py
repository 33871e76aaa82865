"""The metric that decides among configurations that the first objective does not tell apart, where params.yaml leaves
it to the data."""

from pipeline.config import Params
from pipeline.data.prepared.encoded import ImageRows
from pipeline.data.prepared.prepared import Prepared
from pipeline.data.splits.split import Ids
from pipeline.score.locate import count_rankable
from pipeline.tune.objectives.objectives import AUROC, AUTO, otherwise_by

MIN_MASKED = 50
"""Validation images with a usable mask from which on attention decides: fewer do not tell configurations apart."""
BLOCK = 256
"""Masks looked at together."""


def resolve_choice(params: Params, prepared: Prepared, val: Ids) -> Params:
    """The parameters with `search.choose.then: auto` replaced by the metric that the data give.

    Args:
        params: As they were read.
        prepared: The data.
        val: The ids of the validation images.
    """
    if params.search.choose.then != AUTO:
        return params
    found = AUROC if has_masks_to_choose_by(prepared.masks, val) else otherwise_by(params)
    return params.with_values({"search.choose.then": found}, where="search.choose.then: auto")


def has_masks_to_choose_by(masks: ImageRows | None, val: Ids) -> bool:
    """Whether enough validation images have a mask with object and background. Looks no further than it must."""
    return masks is not None and has_usable_masks(masks, val, least=MIN_MASKED)


def has_usable_masks(masks: ImageRows, ids: Ids, *, least: int = 1) -> bool:
    """Whether so many of these images have a mask with object and background. Looks no further than it must."""
    found = 0
    for start in range(0, len(ids) if len(ids) >= least else 0, BLOCK):
        found += count_rankable(masks[ids[start : start + BLOCK]])
        if found >= least:
            return True
    return False
