"""GTA: guided transfer of spatial attention (Seo et al., arXiv 2401.02656).

The CLS attention of the trained network is kept near that of the source, a frozen, pretrained network that
receives the same augmented images. With A[CLS, :] the row of the CLS query before softmax:

    L_gta = mean over images, layers, heads and positions of ( A_target[CLS, :] - stopgrad(A_source[CLS, :]) )^2

The paper gives this form. It leaves four things open, which are options here: the layers (default: all),
whether the entry of CLS with itself counts (default: no), mean or sum over positions (default: mean; they
differ by the factor N), and the weight, which is to be searched. Patches are compared position by position,
so source and target must have the same grid and the same heads.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.models.architecture import describe_network, num_heads
from pipeline.models.model_config import LayerSpec
from pipeline.models.weights import format_shape
from pipeline.regularizers.base import (
    Features,
    Frozen,
    Regularizer,
    RegularizerOutput,
    RequiredFeatures,
    at_least_float32,
)
from pipeline.regularizers.features import Collector

REDUCTIONS = ("mean", "sum")


class GuidedTransfer(Regularizer):
    """L_gta. Monitor: `value`, the unweighted loss.

    Args:
        weight: Peak of the weight's schedule.
        source: Specification of the pretrained network (a timm name, a checkpoint, models:/...), passed to
            `load_source`.
        layers: Compared blocks, resolved in each of the two networks.
        with_cls: Whether the product of the CLS query with the CLS key is a further position.
        reduction: "mean" or "sum" over positions.
        schedule: One of `regularizer_config.SCHEDULES`.
        watch: Whether the value is computed on validation images at weight 0 too.
        load_source: Loads a network from its specification.

    Raises:
        ValueError: If `source` or `load_source` is None, or the reduction is unknown.
    """

    def __init__(
        self,
        *,
        weight: float,
        source: str | None,
        layers: LayerSpec = "all",
        with_cls: bool = False,
        reduction: str = "mean",
        schedule: str = "warmup_cosine",
        watch: bool = False,
        load_source: Callable[[str], nn.Module] | None = None,
    ) -> None:
        needs = RequiredFeatures(similarity=layers, with_cls=with_cls, inputs=True)
        super().__init__(weight, needs, schedule=schedule, watch=watch)
        self.layers = layers
        if source is None or load_source is None:
            raise ValueError(
                "source: is null, but guided transfer needs a pretrained network: a timm name, a checkpoint's folder "
                "or file, or models:/name@alias"
                if source is None
                else f"source: given {source!r}, but there is nothing to load it with"
            )
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: unknown reduction {reduction!r}; known: {', '.join(REDUCTIONS)}")
        self.source = source
        self.reduction = reduction
        self._load = load_source
        self._frozen: tuple[Frozen, Collector] | None = None

    def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
        """Loads the source, and checks that its attention can be compared with the network's.

        Raises:
            ValueError: If the source cannot be loaded or tapped, takes images of another shape, or has
                another grid or other heads.
        """
        try:
            source = self._load(self.source)
        except ValueError as error:
            raise ValueError(f"source: {self.source}: {error}") from None
        _check_alike(model, source, self.layers, inputs_shape, name=self.source)
        collector = Collector(source, RequiredFeatures(similarity=self.layers, with_cls=self.needs.with_cls))
        deepest = max(describe_network(source).resolve(self.layers))
        self._frozen = Frozen(source, beside=model, until=deepest), collector

    def forward(self, features: Features) -> RegularizerOutput:
        if self._frozen is None:
            raise RuntimeError("guided transfer has not been prepared for a network")
        if features.similarity is None or features.inputs is None:
            raise ValueError("guided transfer needs similarity maps and images, and they were not collected")
        frozen, collector = self._frozen
        frozen(features.inputs)
        loss = guided_transfer(_rows(features), _rows(collector.features()), reduction=self.reduction)
        collector.clear()
        return RegularizerOutput(loss, {"value": loss.detach()})


def guided_transfer(target: Tensor, source: Tensor, *, reduction: str = "mean") -> Tensor:
    """Computes the squared difference of two networks' CLS rows. No gradient flows into the source.

    Args:
        target: CLS rows of the trained network before softmax, (B, L, A, N), floating point. Half precision
            is computed in float32.
        source: CLS rows of the source, of the same shape.
        reduction: "mean" or "sum" over positions.

    Returns:
        A scalar: the mean over images, layers and heads of the mean, or sum, over positions.

    Raises:
        ValueError: If the shapes differ or the reduction is unknown.
    """
    if target.shape != source.shape:
        raise ValueError(
            f"the network's CLS rows have shape {tuple(target.shape)}, the source's {tuple(source.shape)}; they must "
            "be equal"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; known: {', '.join(REDUCTIONS)}")
    difference = (at_least_float32(target) - at_least_float32(source).detach()).square()
    positions = difference.mean(-1) if reduction == "mean" else difference.sum(-1)
    return positions.mean()


def _rows(features: Features) -> Tensor:
    """Returns the CLS rows (B, L, A, N), or (B, L, A, 1 + N) with the entry of CLS with itself first."""
    assert features.similarity is not None
    patches = features.similarity.flatten(-2)
    return patches if features.cls is None else torch.cat([features.cls.unsqueeze(-1), patches], dim=-1)


def _check_alike(
    target: nn.Module, source: nn.Module, layers: LayerSpec, inputs_shape: tuple[int, ...], *, name: str
) -> None:
    """Checks that the attention of two networks can be compared.

    Args:
        target: The trained network.
        source: The frozen network.
        layers: Compared blocks.
        inputs_shape: (channels, height, width) of the images.
        name: Specification of the source, for messages.

    Raises:
        ValueError: If a network has no CLS token, or the networks differ in grid, heads, number of blocks or
            images.
    """
    _require_cls(target, "")
    _require_cls(source, f"source: {name}: ")
    try:
        theirs = _described(source, layers)
    except ValueError as error:
        raise ValueError(f"source: {name}: {error}") from None
    advice = "take a source of the network's own kind, or set model.name and model.kwargs to the source's"
    for what, mine, its in zip(
        ("blocks compared", "grid of patches", "heads"), _described(target, layers), theirs, strict=True
    ):
        if mine != its:
            raise ValueError(f"source: {name} has {its} {what}, but the network that is trained has {mine}; {advice}")
    taken = describe_network(source).inputs
    if taken != inputs_shape:
        raise ValueError(
            f"source: {name} takes images of {format_shape(taken)} (channels, height, width), but these are "
            f"{format_shape(inputs_shape)}; {advice}, and prepare.image_size"
        )


def _require_cls(network: nn.Module, whose: str) -> None:
    needed = "guided transfer compares the attention of CLS tokens: take a ViT or DeiT with one, or weight 0"
    try:
        architecture = describe_network(network)
    except ValueError:
        raise ValueError(f"{whose}{type(network).__name__} is no Vision Transformer; {needed}") from None
    if not architecture.has_cls:
        raise ValueError(f"{whose}{type(network).__name__} has no CLS token; {needed}")


def _described(model: nn.Module, layers: LayerSpec) -> tuple[str, str, str]:
    """Returns the number of compared blocks, the grid, and the heads of these blocks, for messages."""
    architecture = describe_network(model)
    chosen = architecture.resolve(layers)
    heads = [num_heads(model, layer) for layer in chosen]
    counted = str(heads[0]) if len(set(heads)) == 1 else str(heads)
    return str(len(chosen)), format_shape(architecture.grid), counted
