"""GTA: guided transfer of spatial attention (Seo et al., arXiv 2401.02656).

The network that is trained keeps its CLS attention near that of a frozen, pretrained copy of its kind, which sees the
same augmented images. With A[CLS, :] the row of the CLS query before softmax:

    L_gta = mean over images, layers, heads and positions of ( A_target[CLS, :] - stopgrad(A_source[CLS, :]) )^2

Published is the form. Not settled by it, and so options: which layers (all), whether the entry of CLS with itself
counts (it does not), mean or sum over positions (mean; they differ by the factor N), and the weight, which is to be
searched. Positions are the patches in the same place: source and target must have the same grid and heads.
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
    """L_gta. Monitors: `value`, the loss itself.

    source: the pretrained network, as `load_source` takes it (a timm name, a checkpoint, models:/...). layers: compared
    block by block, in both networks as the specification says. with_cls: the CLS query's product with the CLS key is a
    further position. reduction: "mean" or "sum" over positions.

    Raises:
        ValueError: no source, nothing to load it with, or another reduction.
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
        """Load the source and see that its attention can be compared.

        Raises:
            ValueError: it cannot be loaded or tapped, takes other images, or has another grid or other heads.
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
    """The squared difference of two networks' CLS rows, a scalar; no gradient goes into the source.

    target, source: (B, L, A, N), before softmax, floating point; half precision is computed in float32. The mean over
    images, layers and heads of the mean, or sum, over positions.

    Raises:
        ValueError: two shapes, or another reduction.
    """
    if target.shape != source.shape:
        raise ValueError(f"rows of shape {tuple(target.shape)} cannot be compared with {tuple(source.shape)}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; known: {', '.join(REDUCTIONS)}")
    difference = (at_least_float32(target) - at_least_float32(source).detach()).square()
    positions = difference.mean(-1) if reduction == "mean" else difference.sum(-1)
    return positions.mean()


def _rows(features: Features) -> Tensor:
    """CLS rows (B, L, A, N), or with the entry of CLS itself first (B, L, A, 1 + N)."""
    assert features.similarity is not None
    patches = features.similarity.flatten(-2)
    return patches if features.cls is None else torch.cat([features.cls.unsqueeze(-1), patches], dim=-1)


def _check_alike(
    target: nn.Module, source: nn.Module, layers: LayerSpec, inputs_shape: tuple[int, ...], *, name: str
) -> None:
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
    """How many blocks are compared, the grid, and the heads of those blocks."""
    architecture = describe_network(model)
    chosen = architecture.resolve(layers)
    heads = [num_heads(model, layer) for layer in chosen]
    counted = str(heads[0]) if len(set(heads)) == 1 else str(heads)
    return str(len(chosen)), format_shape(architecture.grid), counted
