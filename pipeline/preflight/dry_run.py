"""Dry run of networks and regularisers without weights: shapes alone show whether a configuration can be trained.

Tensors on torch's meta device have a shape and no memory. A network of any size is built there, and run through the
forward pass of a training step, in milliseconds. Each regulariser is built too, and checked against its network.
"""

import itertools
import os
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipeline.assembly import NO_WEIGHTS, fit_pretrained, regularizers_from_params
from pipeline.config import Params, parameters
from pipeline.data.sources.image_source import Preview
from pipeline.errors import UserError, format_value, join_lines, truncate
from pipeline.models.architecture import Architecture, describe_network
from pipeline.models.build import build_model
from pipeline.models.freeze import freeze
from pipeline.models.model_config import Weights
from pipeline.models.spatial_prior import is_of_prior
from pipeline.models.tap import SimilarityTap, TokenTap
from pipeline.regularizers.guide_network import GuideNetwork
from pipeline.train.loader import make_augmentation, make_mixer
from pipeline.train.memory import checkpointed
from pipeline.train.objective import NO_GRADIENT, Objective
from pipeline.tune.space import SearchSpace

LAYERS = [path for path in parameters() if path.startswith("regularizer.") and path.endswith(".layers")]
"""Parameters that choose the blocks on which a regulariser acts."""
MODEL = "model."
NOT_SHAPING = ("model.init", "model.drop_path")
"""Parameters of the model that affect neither whether it can be built nor which blocks it has."""

MOST_BLOCKS = 1000
"""Maximum number of blocks. A block costs time on the meta device too, so a million would take minutes. timm's deepest
ViT has 48.
"""

BYTES_A_WEIGHT = 4
"""Bytes of a weight. A trained weight takes three times as many more: its gradient and most optimizers' two moments."""


@dataclass(frozen=True)
class Network:
    """A network that can be trained.

    Attributes:
        num_parameters: Number of parameters.
        num_trained: Number of parameters that are not frozen.
        architecture: Its blocks, patch grid and tokens.
        notes: How pretrained weights were adapted, in words.
    """

    num_parameters: int
    num_trained: int
    architecture: Architecture
    notes: tuple[str, ...] = ()


def check_networks(
    params: Params,
    space: SearchSpace,
    source: Preview,
    device: str,
    pretrained: Mapping[str, Weights] = NO_WEIGHTS,
) -> Network:
    """Tries every network for which params.yaml, a control or the search can ask, and returns that of params.yaml.

    Args:
        params: All parameters.
        space: The search space.
        source: The image source.
        device: Name of torch's device.
        pretrained: Resolved pretrained weights, by specification, fitted to each network that starts from them.

    Raises:
        UserError: A network cannot be trained, or lacks blocks that are to be regularised; the message says where it is
            asked for.
    """

    def tried(config: Params, where: str) -> Network:
        return check_network(config, where, len(source.classes), source.channels, device, pretrained)

    base = tried(params, "params.yaml")
    _check_layers("params.yaml", params, base.architecture, space)
    for name, values in space.controls.items():
        where = f"{space.file}: controls.{name}"
        config = params.with_values(values, where=where)
        same = (config.model, config.train) == (params.model, params.train)
        network = base if same else tried(config, where)
        _check_layers(where, config, network.architecture)
    searched = [path for path in space.dimensions if path.startswith(MODEL) and path not in NOT_SHAPING]
    for choice in itertools.product(*(space.values_at_ends(path) for path in searched)):
        config = params.with_values(dict(zip(searched, choice, strict=True)), where=space.file)
        network = base if config.model == params.model else tried(config, space.file)
        _check_choices(config, space, network.architecture)
    return base


def _check_choices(config: Params, space: SearchSpace, architecture: Architecture) -> None:
    """Checks the choices of layers against a network of this architecture.

    Every choice must exist, and no two choices may be the same blocks. If the method may have a weight, not all
    blocks of a choice may be frozen.

    Args:
        config: Parameters with the model's configuration.
        space: The search space.
        architecture: Architecture of the network.

    Raises:
        UserError: A choice breaks one of these rules.
    """
    frozen = architecture.blocks if isinstance(config.model.freeze, str) else config.model.freeze
    for path in LAYERS:
        if path in space.dimensions:
            choices = space.dimensions[path]["choices"]
        elif _is_used(path, config, space):
            choices = [config.value(path)]
        else:
            continue
        section = path.rpartition(".")[0]
        weighs = bool(config.value(f"{section}.weight")) or f"{section}.weight" in space.dimensions
        seen: dict[tuple[int, ...], Any] = {}
        for spec in choices:
            blocks = _blocks(space.file, path, spec, architecture)
            if weighs and blocks[-1] < frozen:
                raise UserError(
                    f"{space.file}: {path}: {spec!r} are blocks {list(blocks)} of {architecture.blocks}; the method "
                    f"{NO_GRADIENT} (model.freeze: {config.model.freeze})."
                )
            if blocks in seen:
                raise UserError(
                    f"{space.file}: {path}: {seen[blocks]!r} and {spec!r} are the same blocks {list(blocks)} in a "
                    f"network of {architecture.blocks}; leave one out."
                )
            seen[blocks] = spec


def _check_layers(where: str, config: Params, architecture: Architecture, space: SearchSpace | None = None) -> None:
    """Checks that the layers of every method that is on, or that the search space may turn on, exist.

    Args:
        where: Beginning of the message, which says where the configuration comes from.
        config: Parameters with the configuration.
        architecture: Architecture of the network.
        space: The search space; None for a control, which the space does not vary.

    Raises:
        UserError: Some do not exist; the message lists all of them.
    """
    problems = []
    for path in LAYERS:
        if _is_used(path, config, space):
            try:
                _blocks(where, path, config.value(path), architecture)
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError(join_lines(problems))


def _is_used(path: str, config: Params, space: SearchSpace | None) -> bool:
    """Returns whether the method with this parameter is on, or the search space varies another parameter of the method.

    Args:
        path: Dotted path of the parameter.
        config: Parameters with the configuration.
        space: The search space; None for a control.
    """
    section = path.rpartition(".")[0]
    dimensions = {} if space is None else space.dimensions
    varied = path not in dimensions and any(each.startswith(f"{section}.") for each in dimensions)
    return varied or bool(config.value(f"{section}.weight") or config.value(f"{section}.watch"))


def _blocks(where: str, path: str, spec: Any, architecture: Architecture) -> tuple[int, ...]:
    """Returns the numbers of the blocks that a specification of layers means.

    Args:
        where: Beginning of the message, which says where the configuration comes from.
        path: Dotted path of the parameter.
        spec: The specification: a word, or numbers of blocks.
        architecture: Architecture of the network.

    Raises:
        UserError: The network has no such blocks.
    """
    try:
        return architecture.resolve(spec if isinstance(spec, str) else tuple(spec))
    except ValueError as error:
        raise UserError(f"{where}: {path}: {truncate(str(error), 300)}.") from None


def check_network(
    params: Params,
    where: str,
    num_classes: int,
    channels: int,
    device: str,
    pretrained: Mapping[str, Weights] = NO_WEIGHTS,
) -> Network:
    """Returns the network of a configuration, if it can be trained with the tap attached.

    Args:
        params: Parameters with the configuration.
        where: Beginning of the message, which says where the configuration comes from.
        num_classes: Number of classes.
        channels: Channels of an image, 1 or 3.
        device: Name of torch's device.
        pretrained: Resolved pretrained weights, by specification.

    Raises:
        UserError: The network cannot be built, run, tapped or held in memory, or its pretrained weights do not fit it.
    """
    side = params.prepare.image_size
    _check_depth(params, where)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # such as warnings about a network without weights
        try:
            model = build_model(
                params.model.config(), num_classes=num_classes, image_size=(side, side), channels=channels
            )
        except ValueError as error:
            raise UserError(f"{where}: model.{error}") from None
        architecture = describe_network(model)
        try:
            freeze(model, params.model.freeze)
        except ValueError as error:
            raise UserError(f"{where}: model.{error}") from None
        try:
            # `check_regularizers` checks the further requirements of methods that are on.
            SimilarityTap(model, "last", architecture.query).remove()
        except ValueError as error:
            raise UserError(f"{where}: model.name: {error}. The report shows similarity maps.") from None
        except TypeError as error:  # a negative number of channels a head, whose root is complex
            raise _not_run(params, where, error) from None
        check_patch(architecture.patch, side, where)
        try:
            config = params.train.config()
            make_augmentation(config, channels=channels)
            make_mixer(config, model)
            with checkpointed(model, config.grad_checkpointing):
                pass
        except ValueError as error:
            raise UserError(f"{where}: {error}.") from None
        num_trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        network = Network(sum(each.numel() for each in model.parameters()), num_trained, architecture)
        _check_memory(network, where, device)
        try:
            with TokenTap(model) as tap:
                model.train()(torch.empty(2, channels, side, side))
        except Exception as error:  # torch and timm raise errors of many types for invalid keywords
            raise _not_run(params, where, error) from None
        try:
            tap.tokens()
        except ValueError:
            patches = architecture.grid[0] * architecture.grid[1]
            raise UserError(
                f"{where}: model.kwargs: the last block gets fewer tokens than the {patches} patches; leave out "
                "keywords that drop patches, such as patch_drop_rate"
            ) from None
    try:
        adapted = fit_pretrained(model, params, pretrained)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    _check_prior_learns(model, params, where, loaded={} if adapted is None else adapted.tensors)
    return network if adapted is None else replace(network, notes=adapted.notes)


def _check_prior_learns(model: torch.nn.Module, params: Params, where: str, loaded: Container[str]) -> None:
    """Checks that a spatial prior is trained or pretrained; otherwise it would stay at its neutral initial values.

    Args:
        model: The network.
        params: Parameters with the configuration.
        where: Beginning of the message, which says where the configuration comes from.
        loaded: Names of the pretrained weights.

    Raises:
        UserError: The prior is neither trained nor pretrained.
    """
    prior = {name: weight for name, weight in model.named_parameters() if is_of_prior(name)}
    if prior and not any(weight.requires_grad or name in loaded for name, weight in prior.items()):
        raise UserError(
            f"{where}: model.spatial_prior: model.freeze {params.model.freeze} keeps it at its initial values, which "
            "have no effect; freeze fewer blocks, or take blocks: 0 and positional_conv: false"
        )


def describe_freezing(params: Params, space: SearchSpace, network: Network) -> tuple[str, ...]:
    """Returns in lines which part of the network is trained, and whether `model.freeze` freezes random weights.

    Args:
        params: All parameters.
        space: The search space.
        network: The network of params.yaml.
    """
    lines = []
    if (frozen := params.model.freeze) != 0:
        share = f"{network.num_trained:,} of {network.num_parameters:,} parameters"
        lines.append(f"model.freeze: {frozen}, so {share} are trained")
    configs = (config.model for _, config in space.representative_configs(params))
    if any(config.freeze != 0 and config.pretrained is None for config in configs):
        lines.append("model.freeze without model.pretrained keeps random weights, on which the rest is then trained")
    return tuple(lines)


def check_patch(patch: tuple[int, int], side: int, where: str) -> None:
    """Checks that the patches cover the whole image.

    Args:
        patch: Height and width of a patch.
        side: Side of an image.
        where: Beginning of the message, which says where the configuration comes from.

    Raises:
        UserError: Rows or columns are left over.
    """
    left = side % patch[0], side % patch[1]
    if not any(left):
        return
    given = f"{patch[0]}" if patch[0] == patch[1] else f"[{patch[0]}, {patch[1]}]"
    lines = zip(left, ("row", "column"), strict=True)
    over = [line if count == 1 else f"{count} {line}s" for count, line in lines if count]
    lost = f"{left[0]} rows and columns" if left[0] == left[1] > 1 else " and ".join(over)
    raise UserError(
        f"{where}: model.kwargs: patch_size {given} does not divide prepare.image_size {side}; the last {lost} of "
        "every image would be cut off"
    )


def _check_depth(params: Params, where: str) -> None:
    """Rejects a number of blocks above `MOST_BLOCKS` before the network is built."""
    for key in ("depth", "depths"):
        given = params.model.kwargs.get(key)
        blocks = sum(given) if isinstance(given, list) else given
        if isinstance(blocks, int) and blocks > MOST_BLOCKS:
            raise UserError(
                f"{where}: model.kwargs: given {key} {format_value(given)}; allowed: at most {MOST_BLOCKS} blocks"
            )


def _not_run(params: Params, where: str, error: Exception) -> UserError:
    """Returns the error for a network that can be built and not run.

    Args:
        params: Parameters with the configuration.
        where: Beginning of the message, which says where the configuration comes from.
        error: The error that stopped the network.
    """
    given, reason = format_value(params.model.kwargs, 300), truncate(str(error).strip().partition("\n")[0], 300)
    return UserError(f"{where}: model.kwargs: {params.model.name} can be built with {given}, but not run: {reason}")


def _check_memory(network: Network, where: str, device: str) -> None:
    """Checks that the weights, with their gradients and the optimizer's state, fit in the device's memory.

    Args:
        network: The network.
        where: Beginning of the message, which says where the configuration comes from.
        device: Name of torch's device.

    Raises:
        UserError: They do not fit.
    """
    if device.startswith("cuda"):
        there = torch.cuda.get_device_properties(torch.device(device)).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = (network.num_parameters + 3 * network.num_trained) * BYTES_A_WEIGHT
    if needed > there:
        raise UserError(
            f"{where}: model.name and model.kwargs: {network.num_parameters:,} weights take {needed / 2**30:,.0f} GiB "
            f"to train, but there are {there / 2**30:,.0f} here ({device}); take a smaller network"
        )


def check_regularizers(
    params: Params, space: SearchSpace, source: Preview, weights: Mapping[str, Weights] = NO_WEIGHTS
) -> dict[str, str]:
    """Prepares the regularisers of params.yaml, of every control and of the representative configurations of the space.

    Plug-ins are imported and pretrained networks loaded. The trained network has shapes only, and no weights.

    Args:
        params: All parameters.
        space: The search space.
        source: The image source.
        weights: Resolved pretrained weights, by specification.

    Returns:
        The methods that need masks, each with the place that asks for it.

    Raises:
        UserError: A regulariser cannot be built, or does not fit its network; the message says where it is asked for.
    """
    tried: list[Params] = []
    masked: dict[str, str] = {}
    for where, config in space.representative_configs(params):
        if any(each.model == config.model and each.regularizer == config.regularizer for each in tried):
            continue
        tried.append(config)
        try:
            depth, classes = config.regularizer.locality_guidance.guide_depth, len(source.classes)
            guided = config.regularizer.uses_guide
            guide = GuideNetwork(depth, num_classes=classes, channels=source.channels) if guided else None
            methods = regularizers_from_params(config, weights, guide=guide)
            if any(method.active for method in methods.values()):
                side = config.prepare.image_size
                with torch.device("meta"):
                    model = build_model(
                        config.model.config(),
                        num_classes=classes,
                        image_size=(side, side),
                        channels=source.channels,
                    )
                freeze(model, config.model.freeze)
                Objective(model, methods, planned_epochs=config.train.epochs).close()
            for name, method in methods.items():
                if method.active and method.needs.masks:
                    masked.setdefault(name, where)
        except (UserError, ValueError) as error:
            raise UserError(join_lines(f"{where}: {line}" for line in str(error).splitlines())) from None
    return masked
