"""Classes of unequal size: rare classes, the remedies that are set, and a check of class weights."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import Params
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.sources.source_config import Preview
from pipeline.data.splits.imbalance import describe_imbalance
from pipeline.data.splits.split import read_split
from pipeline.errors import UserError, join_lines
from pipeline.inputs.source import manifest_if_current
from pipeline.train.class_weights import BALANCED, count_classes, describe_problem
from pipeline.tune.space import SearchSpace
from pipeline.workspace import Workspace

WEIGHTS, SAMPLING = "train.class_weights", "train.sampling"
"""Parameters against unequal classes: weights in the loss, and how often images are drawn."""


def check_class_weights(workspace: Workspace, params: Params, space: SearchSpace, source: Preview) -> None:
    """Checks that class weights name existing classes, of which there are training images.

    It checks params.yaml, every control and every choice of the search space. The classes of a data set that is not yet
    downloaded are unknown, and so are the training images of one that is not split. The search then checks before it
    trains.

    Args:
        workspace: The checkout.
        params: All parameters.
        space: The search space.
        source: The image source.

    Raises:
        UserError: A class has a weight and does not exist, or has no training image; the message names it.
    """
    if source.class_counts is None:
        return
    given: list[tuple[str, Any]] = [("params.yaml", params.train.class_weights)]
    given += [(f"{space.file}: controls.{name}", values.get(WEIGHTS)) for name, values in space.controls.items()]
    given += [(space.file, value) for value in (space.values_at_ends(WEIGHTS) if WEIGHTS in space.dimensions else [])]
    mappings = [(where, weights) for where, weights in given if isinstance(weights, Mapping)]
    counts = training_counts(workspace, params) if mappings else []
    problems = ((where, describe_problem(weights, source.classes, counts)) for where, weights in mappings)
    if lines := [f"{where}: {problem}" for where, problem in problems if problem]:
        raise UserError(join_lines(dict.fromkeys(lines)))


def training_counts(workspace: Workspace, params: Params) -> list[int]:
    """Returns the number of training images by label.

    The list is empty if there is no split, or if the prepared set does not match the parameters.
    """
    if manifest_if_current(workspace, params) is None:
        return []
    prepared = open_prepared(workspace.prepared)
    try:
        train = read_split(workspace.split, data_hash=prepared.data_hash).train
    except UserError:
        return []
    counts: list[int] = count_classes(prepared.labels[train], prepared.classes).tolist()
    return counts


def describe_balance(params: Params, space: SearchSpace, source: Preview) -> Iterator[str]:
    """Yields lines about rare classes and the remedies that are set; none if the classes are about equal.

    Args:
        params: All parameters.
        space: The search space.
        source: The image source.
    """
    found = None if source.class_counts is None else describe_imbalance(source.classes, source.class_counts)
    if found is not None:
        yield f"{found}; {_describe_remedies(params, space)}"
    if params.train.class_weights == BALANCED and params.train.sampling == BALANCED:
        yield (
            f"{WEIGHTS}: {BALANCED} changes nothing if {SAMPLING} is {BALANCED} too, which already shows all classes "
            "equally often"
        )


def _describe_remedies(params: Params, space: SearchSpace) -> str:
    defaults = {WEIGHTS: None, SAMPLING: "shuffle"}
    taken = {
        "params.yaml sets": [path for path, default in defaults.items() if params.value(path) != default],
        f"{space.file} varies": [path for path in defaults if path in space.dimensions],
    }
    if any(taken.values()):
        return ", ".join(f"{who} {' and '.join(paths)}" for who, paths in taken.items() if paths)
    return (
        f"{WEIGHTS}: {BALANCED} has rare classes count as much as the others in the loss, {SAMPLING}: {BALANCED} shows "
        "them as often (docs/own-images/rare-classes.md)"
    )
