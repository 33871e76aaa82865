"""Objectives and constraints, checked against the space and the data before anything starts, and told in words."""

import itertools

from pipeline.config import Params
from pipeline.data.settings import Preview
from pipeline.data.splits import read_split
from pipeline.data.store import open_prepared
from pipeline.errors import UserError
from pipeline.ops.source import made_by
from pipeline.score.locate import can_be_ranked
from pipeline.tune.goals import PARAMETERS, goals_of, shown_limits
from pipeline.tune.sizes import MODEL, parameter_counter
from pipeline.tune.space import SearchSpace
from pipeline.workspace import Workspace


def check_sizes(params: Params, space: SearchSpace, source: Preview) -> None:
    """Refuse a limit on the parameters that no network of the space keeps, and an objective that is the same for all.

    Looked at are all choices of the model's dimensions, and both ends of its ranges.

    Raises:
        UserError: it says how many parameters the smallest of them has, or that nothing varies them.
    """
    limit = params.search.constraints.max_parameters
    if PARAMETERS in params.search.objectives and not any(path.startswith(MODEL) for path in space.dimensions):
        raise UserError(
            f"params.yaml: search.objectives: {PARAMETERS}: {space.file} varies nothing of the model, so every setting "
            "has as many. Leave it out, or vary model.kwargs."
        )
    if limit is None:
        return
    count = parameter_counter(params, num_classes=len(source.classes), channels=source.channels)
    varied = {path: spec for path, spec in space.dimensions.items() if path.startswith(MODEL)}
    ends = [spec["choices"] if "choices" in spec else (spec["low"], spec["high"]) for spec in varied.values()]
    smallest = min(count(dict(zip(varied, values, strict=True))) for values in itertools.product(*ends))
    if smallest > limit:
        of = (
            f"of {space.file}, over {', '.join(varied)}," if varied else f"({params.model.name}; the space varies none)"
        )
        raise UserError(
            f"params.yaml: search.constraints.max_parameters: given {limit:,.0f}, but the smallest network {of} has "
            f"{smallest:,}. Raise it, or take a smaller network (model.name, model.kwargs)."
        )


def check_masks(workspace: Workspace, params: Params) -> None:
    """Refuse goals that are about attention against masks where the data have none; while no data are prepared, this
    cannot be told, and the search says it when it begins.

    Raises:
        UserError: the set has no masks, or none of its validation images has a usable one.
    """
    wanted = goals_of(params).of_attention
    if not wanted or made_by(workspace, params) is None:
        return
    prepared = open_prepared(workspace.prepared)
    said = f"params.yaml: search: {', '.join(wanted)}"
    if prepared.masks is None:
        raise UserError(
            f"{said}: attention is scored against masks, and {params.set_name} has none. Leave it out of "
            "search.objectives and search.constraints, or give masks or boxes with the pictures."
        )
    try:
        val = read_split(workspace.split, data_hash=prepared.data_hash).val
    except UserError:
        return  # the split is still to be made
    if not can_be_ranked(prepared.masks[val]):
        raise UserError(f"{said}: no mask of a validation image holds both object and background to score against.")


def goal_words(params: Params) -> dict[str, str]:
    """Lines of the plan, by their names; none in a search for val/accuracy alone without constraints."""
    goals, search = goals_of(params), params.search
    lines = {}
    if goals.several:
        pairs = zip(goals.objectives, goals.directions, strict=True)
        lines["goals"] = ", ".join(f"{direction} {name}" for name, direction in pairs) + (
            "; of the Pareto front, the best by val/accuracy is confirmed and retrained"
        )
    if goals.limits:
        lines["within"] = shown_limits(search.constraints.model_dump())
    return lines
