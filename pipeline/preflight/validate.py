"""Rules that involve several parameters, the search space or the data, checked before anything starts."""

import itertools
import posixpath
import re
from collections.abc import Mapping
from typing import Any

from pipeline.config import Params
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.sources.source_config import Preview
from pipeline.data.splits.split import read_split
from pipeline.errors import UserError, format_value
from pipeline.inputs.choice_metric import has_usable_masks
from pipeline.inputs.probe_weights import probed_spec
from pipeline.inputs.source import manifest_if_current
from pipeline.preflight.run_resources import check_batch_shards
from pipeline.provenance.weights_record import PRETRAINED, SOURCE
from pipeline.tune.objectives.objectives import PARAMETERS, objectives_from_params
from pipeline.tune.objectives.parameter_count import MODEL, parameter_counter
from pipeline.tune.space import SearchSpace
from pipeline.workspace import Workspace


def check_sizes(params: Params, space: SearchSpace, source: Preview) -> None:
    """Checks that a network of the space meets the limit on parameters, and that an objective on parameters varies.

    It tries all choices of the model's dimensions, and both ends of its ranges.

    Args:
        params: All parameters.
        space: The search space.
        source: The image source.

    Raises:
        UserError: Even the smallest network exceeds the limit; or the number of parameters is an objective, and the
            space does not vary it.
    """
    limit = params.search.constraints.max_parameters
    then = str(params.search.choose.then)
    asked = {"search.objectives": list(map(str, params.search.objectives)), "search.choose.then": [then]}
    for name, metrics in asked.items():
        if PARAMETERS in metrics and not any(path.startswith(MODEL) for path in space.dimensions):
            raise UserError(
                f"params.yaml: {name}: {PARAMETERS}: {space.file} varies nothing of the model, so every network "
                "has the same number of parameters. Leave it out, or vary model.kwargs."
            )
    if limit is None:
        return
    count = parameter_counter(params, num_classes=len(source.classes), channels=source.channels)
    varied = [path for path in space.dimensions if path.startswith(MODEL)]
    ends = [space.values_at_ends(path) for path in varied]
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
    """Checks that the data have masks, if an objective or constraint is on attention against masks.

    While no data are prepared, nothing is checked; the search then checks when it begins.

    Raises:
        UserError: The data have no masks, or no validation image has one that can be used.
    """
    if metrics := objectives_from_params(params).attention_metrics:
        _require_masks(
            workspace,
            params,
            f"params.yaml: search: {', '.join(metrics)}",
            f"attention is scored against masks, and {params.set_name} has none. Leave it out of search.objectives, "
            "search.constraints and search.choose.then, or give masks or boxes with the pictures.",
            "val",
        )


def check_training_masks(workspace: Workspace, params: Params, methods: Mapping[str, str]) -> None:
    """Checks that training images have masks, if a method needs them.

    While no data are prepared, nothing is checked; the search then checks when it begins.

    Args:
        workspace: The checkout.
        params: All parameters.
        methods: Methods that need masks, each with the place that asks for it, such as a control.

    Raises:
        UserError: The data have no masks, or no training image has one that can be used.
    """
    for name, where in list(methods.items())[:1]:
        _require_masks(
            workspace,
            params,
            f"{where}: regularizer.{name}",
            f"needs masks of the training images, and {params.set_name} has none. Set its weight to 0, search another "
            "space, or give masks or boxes with the pictures (docs/own-images.md).",
            "train",
        )


def _require_masks(workspace: Workspace, params: Params, asked_by: str, without: str, role: str) -> None:
    """Checks that the prepared data have masks that can be used for the images of a role.

    Args:
        workspace: The checkout.
        params: All parameters.
        asked_by: Beginning of the message, which says what needs the masks.
        without: Message for data without masks.
        role: Role of the images, train or val.

    Raises:
        UserError: The data have no masks, or no image of the role has one that can be used.
    """
    if manifest_if_current(workspace, params) is None:
        return
    prepared = open_prepared(workspace.prepared)
    if prepared.masks is None:
        raise UserError(f"{asked_by}: {without}")
    try:
        split = read_split(workspace.split, data_hash=prepared.data_hash)
    except UserError:
        return  # the split is still to be made
    if not has_usable_masks(prepared.masks, getattr(split, role)):
        images, use = ("training", "learn from") if role == "train" else ("validation", "score against")
        raise UserError(f"{asked_by}: no mask of a {images} image holds both object and background to {use}.")


def check_splits(params: Params) -> None:
    """Checks that the fractions of val and test leave at least 5 % of the images to train on.

    Raises:
        UserError: They leave less.
    """
    split, evaluate = params.split, params.evaluate
    if evaluate.folds is None:
        test, name = split.test_fraction, "split.test_fraction"
    else:
        test = evaluate.holdout + (1 - evaluate.holdout) / evaluate.folds
        name = "evaluate.folds and evaluate.holdout"
    if test + split.val_fraction * (1 - test) > 0.95:
        raise UserError(f"params.yaml: split.val_fraction and {name} leave less than 5 % to train on.")


def check_warm_start(params: Params) -> None:
    """Checks that with folds no earlier search is used as a warm start, because it has seen the images of every fold.

    Raises:
        UserError: `search.warm_start` names a search.
    """
    warm = params.search.warm_start
    if params.evaluate.folds is not None and warm is not None and not warm.endswith(".csv"):
        raise UserError(
            f"params.yaml: search.warm_start: given {format_value(warm)}, with evaluate.folds: that search has seen "
            "the images of every fold, which would make each fold's figures too good. Set it to null, or to a .csv of "
            "results on other images."
        )


def check_probe(params: Params, space: SearchSpace) -> None:
    """Checks that the weights for the probe are configured, and that the search will resolve them.

    Args:
        params: All parameters.
        space: The search space.

    Raises:
        UserError: As in `probed_spec`; or the weights are the source of guided transfer, which no configuration uses.
    """
    if not params.evaluate.probe:
        return
    spec = probed_spec(params)
    guided = (config.regularizer.guided_transfer for _, config in space.representative_configs(params))
    if params.model.pretrained is None and not any(
        each.source == spec and (each.weight or each.watch) for each in guided
    ):
        raise UserError(
            f"params.yaml: evaluate.probe: given true, but {SOURCE}, whose features it would read, guides no "
            f"configuration of {space.file}. Name the weights in {PRETRAINED}, give guided transfer a weight or watch: "
            "true, or set evaluate.probe to false."
        )


def describe_probe_plan(params: Params) -> dict[str, str]:
    """Returns the plan's line on the probe; empty without a probe.

    Args:
        params: All parameters.
    """
    if not params.evaluate.probe:
        return {}
    return {"probe": f"logistic regression on frozen features of {probed_spec(params)}, on the same test images"}


def check_rates(params: Params, space: SearchSpace) -> None:
    """Checks that no configuration has a final or warm-up learning rate above its peak, since its schedule would rise.

    Raises:
        UserError: One does.
    """
    configs = {"params.yaml": params}
    for name, values in space.controls.items():
        configs[f"{space.file}: controls.{name}"] = params.with_values(values, where=space.file)
    for name in ("min_lr", "warmup_lr"):
        rates = {where: (config.train.lr, getattr(config.train, name)) for where, config in configs.items()}
        highest = max((rate for rate in _ends(space, f"train.{name}", params) if rate is not None), default=None)
        rates[space.file] = (min(_ends(space, "train.lr", params)), highest)
        for where, (lr, other) in rates.items():
            if other is not None and other > lr:
                raise UserError(f"{where}: train.{name} {other} is above train.lr {lr}.")


def check_mixing(params: Params, space: SearchSpace) -> None:
    """Checks that no batch has a single image if mixup or cutmix may be used, because mixing needs two.

    params.yaml and the controls are checked where their networks are tried.

    Raises:
        UserError: The search space has a batch size of 1 beside mixing.
    """
    mixes = any(max(_ends(space, path, params)) > 0 for path in ("train.mixup", "train.cutmix"))
    if mixes and "train.batch_size" in space.dimensions and min(_ends(space, "train.batch_size", params)) < 2:
        raise UserError(f"{space.file}: train.batch_size: batches of 1 cannot be mixed (train.mixup, train.cutmix).")


def check_shares(params: Params, space: SearchSpace) -> None:
    """Checks that with any configuration, every worker of a retraining run gets at least one image of each batch.

    Raises:
        UserError: As in `check_batch_shards`.
    """
    check_batch_shards(
        params.retrain.workers_per_run,
        batch_size=min(_ends(space, "train.batch_size", params)),
        accumulate=max(_ends(space, "train.accumulate", params)),
        where="params.yaml",
    )


def _ends(space: SearchSpace, path: str, params: Params) -> list[Any]:
    """Returns the values of a parameter at the ends of the search space; its one value if the space does not vary it.

    Args:
        space: The search space.
        path: Dotted path of the parameter.
        params: All parameters.
    """
    return space.values_at_ends(path) if path in space.dimensions else [params.value(path)]


def check_model_name(name: str) -> None:
    """Checks that MLflow accepts the model's name, which MLflow itself checks only after all other stages.

    Quotes are excluded because MLflow cannot search for them.

    Raises:
        UserError: The name is not allowed.
    """
    if re.search("[/:'\"`]", name) or not name.strip() or posixpath.normpath(name) in (".", ".."):
        raise UserError(f"params.yaml: register.name: given {format_value(name)}; allowed: a name without / : ' \" `")
