"""SAR: the spatial entropy of similarity maps.

E. Peruzzo et al., Spatial Entropy as an Inductive Bias for Vision Transformers, arXiv 2206.04636; Machine
Learning 113,
2024. Published: t = 0, the last block, 8 neighbours, the CLS query, a weight of 0.01 and the schedule warmup_cosine.
The released code discards the loss of a whole batch if one map has nothing above its cut. Generalisations
made here: other thresholds, several blocks, 4 neighbours, any grid, and the mean of the patches' queries.

A similarity map is cut at its mean plus `threshold` standard deviations, and the pixels above the cut form
connected components. The loss is the entropy of the components' shares of the mass above the cut. It is low
when attention forms few blobs. With S the map of N patches, m its mean, s its population standard deviation
and t the threshold (t = 0 is the paper's):

    cut = m + t s      M = [S > cut]      B = relu(S - cut)      C_1 .. C_K = components of M
    P_k = sum_{j in C_k} B_j / sum_{j in M} B_j                  H = - sum_k P_k ln P_k   (nats)

The cut carries gradient, the components do not. With g_j = -(ln P_c + H) / sum(B) on a pixel of component c
and 0 elsewhere, and G = sum_j g_j:

    dH/dS_j = g_j - G / N - t G (S_j - m) / (N s)

A map is *empty* if it has nothing above the cut, is nearly constant, or is not finite. Nearly constant means
s < 1e-4: entropy ignores scale, so its gradient grows as 1 / s. Empty maps have no gradient and are left out
of means, since scoring them 0 would reward emptiness.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.models.model_config import LayerSpec
from pipeline.models.rows import has_triton
from pipeline.regularizers.base import Features, Regularizer, RegularizerOutput, RequiredFeatures
from pipeline.regularizers.kernels.entropy_plain import plain_entropy
from pipeline.regularizers.projected_rows import kernels

FEWEST_PIXELS = 2_000
"""Fewest pixels of a batch for which the compiled path of CPUs is used.

Importing numba and loading a kernel costs a process half a second, so plain PyTorch computes smaller batches.
"""


class SpatialEntropy(Regularizer):
    """The loss of SAR: for each layer the mean entropy of its maps that are not empty, summed over layers.

    Layers add up, since a mean would tie the weight to their number. Monitors: `value`, the mean entropy over
    all maps that are not empty (nats), and `empty_share`, the share of empty maps.

    Args:
        weight: Peak of the weight's schedule.
        layers: Blocks whose similarity maps are read.
        query: Query of these maps, "cls" or "mean".
        threshold: Cut of a map, in standard deviations above its mean.
        connectivity: 4 or 8 neighbours.
        schedule: One of `regularizer_config.SCHEDULES`.
        watch: Whether the monitors are computed on validation images at weight 0 too. It is on by default, so
            that the control's maps can be compared.
    """

    def __init__(
        self,
        *,
        weight: float,
        layers: LayerSpec = "last",
        query: str = "cls",
        threshold: float = 0.0,
        connectivity: int = 8,
        schedule: str = "warmup_cosine",
        watch: bool = True,
    ) -> None:
        super().__init__(weight, RequiredFeatures(similarity=layers, query=query), schedule=schedule, watch=watch)
        self.threshold = threshold
        self.connectivity = connectivity

    def forward(self, features: Features) -> RegularizerOutput:
        maps = features.similarity
        if maps is None:
            raise ValueError("spatial entropy needs similarity maps, and none were collected")
        if self.total_over_workers is None and _fits_numba(maps):
            loss, *monitors = _MeanEntropy.apply(maps, self.threshold, self.connectivity, self.count_unit)  # type: ignore[no-untyped-call]
            return RegularizerOutput(loss, dict(zip(("value", "empty_share"), monitors, strict=True)))
        return self._means(*entropy_and_empty(maps, threshold=self.threshold, connectivity=self.connectivity))

    def of_members(self, features: Features, members: int) -> RegularizerOutput | None:
        """Computes the losses of a stack at once, since one call for all maps labels their components faster."""
        if features.similarity is None:
            return None
        found = entropy_and_empty(features.similarity, threshold=self.threshold, connectivity=self.connectivity)
        return self._means(*(each.unflatten(0, (members, -1)) for each in found))  # type: ignore[no-untyped-call]

    def _means(self, entropy: Tensor, empty: Tensor) -> RegularizerOutput:
        """Returns the loss and the monitors.

        Args:
            entropy: Entropies, (..., B, L, A).
            empty: Which maps are empty, of the same shape.
        """
        filled = ~empty
        # (B, L, A) -> (L,); a layer whose maps are all empty adds 0. Empty maps have entropy 0 and so add nothing.
        counts = self.global_count(filled.sum(dim=(-3, -1))).to(entropy.dtype)
        by_layer = entropy.sum(dim=(-3, -1)) / counts.clamp(min=self.count_unit)
        value = entropy.detach().sum(dim=(-3, -2, -1)) / counts.sum(-1).clamp(min=self.count_unit)
        monitors = {"value": value, "empty_share": empty.to(entropy.dtype).mean(dim=(-3, -2, -1))}
        return RegularizerOutput(by_layer.sum(-1), monitors)


def spatial_entropy(similarity: Tensor, *, threshold: float | Tensor = 0.0, connectivity: int = 8) -> Tensor:
    """Computes the spatial entropy of each map, differentiable once.

    It can be compiled without a graph break. On CUDA, for grids of up to 32 x 32, it can be captured in a
    graph.

    Args:
        similarity: (..., H, W), floating point. Half precision is computed in float32.
        threshold: Standard deviations above the mean at which a map is cut: one number for all maps, or a
            tensor that broadcasts to (...), which gets no gradient.
        connectivity: 4 or 8 neighbours.

    Returns:
        Entropies in nats, (...), float32, or float64 for float64. An empty map (see the module) has 0 without
        a gradient. A mean must leave empty maps out; `entropy_and_empty` returns which maps are empty.

    Raises:
        ValueError: If there are fewer than two dimensions or no patch, the dtype is not floating point, the
            connectivity is neither 4 nor 8, or the thresholds do not broadcast.
    """
    return entropy_and_empty(similarity, threshold=threshold, connectivity=connectivity)[0]


def entropy_and_empty(
    similarity: Tensor, *, threshold: float | Tensor = 0.0, connectivity: int = 8
) -> tuple[Tensor, Tensor]:
    """Computes the spatial entropy of each map, and whether the map is empty.

    Args:
        similarity: As of `spatial_entropy`.
        threshold: As of `spatial_entropy`.
        connectivity: As of `spatial_entropy`.

    Returns:
        Entropies (...), as of `spatial_entropy`, and whether each map is empty, (...) bool.
    """
    if similarity.ndim < 2 or 0 in similarity.shape[-2:]:
        raise ValueError(f"similarity maps must be (..., H, W) with at least one patch, not {tuple(similarity.shape)}")
    if not similarity.is_floating_point():
        raise ValueError(f"similarity maps must be floating point, not {similarity.dtype}")
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, not {connectivity}")
    lead = similarity.shape[:-2]
    maps = similarity if similarity.dtype == torch.float64 else similarity.float()
    thresholds = _one_a_map(threshold, maps) if isinstance(threshold, Tensor) else None
    if maps.numel() == 0:
        return maps.sum(dim=(-2, -1)), torch.zeros(lead, dtype=torch.bool, device=maps.device)
    common = 0.0 if isinstance(threshold, Tensor) else float(threshold)
    entropy, empty = _SpatialEntropy.apply(maps.reshape(-1, *maps.shape[-2:]), common, thresholds, connectivity)
    return entropy.view(lead), empty.view(lead)


def _one_a_map(thresholds: Tensor, maps: Tensor) -> Tensor:
    """Returns thresholds (n,) float64, one for each of n maps (..., H, W)."""
    lead = maps.shape[:-2]
    try:
        spread_out = thresholds.detach().to(maps.device, torch.float64).expand(lead)
    except RuntimeError:
        raise ValueError(
            f"thresholds must be one a map or broadcast to that, {tuple(lead)}, not {tuple(thresholds.shape)}"
        ) from None
    return spread_out.reshape(-1)


class _SpatialEntropy(torch.autograd.Function):
    """The module's equations on maps (n, H, W). Value and gradient are computed together, in closed form."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, threshold: float, thresholds: Tensor | None, connectivity: int
    ) -> tuple[Tensor, Tensor]:
        entropy, empty, gradient = _work_out(maps, threshold, thresholds, connectivity, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(empty)
        return entropy, empty

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None, None], None, None, None


class _MeanEntropy(torch.autograd.Function):
    """Loss and monitors of `SpatialEntropy.forward` for maps (B, L, A, H, W) on a CPU.

    One call replaces thirty, since the number of calls decides the time on small networks.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, threshold: float, connectivity: int, least: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        with_gradient = ctx.needs_input_grad[0]
        means, gradient = kernels().fused_means(maps, threshold, connectivity, least=least, with_gradient=with_gradient)
        ctx.save_for_backward(gradient)
        ctx.set_materialize_grads(False)
        loss, value, empty_share = means.unbind()
        ctx.mark_non_differentiable(value, empty_share)
        return loss, value, empty_share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return None if upstream is None else gradient * upstream, None, None, None


# A custom operation of torch, so that torch.compile does not trace its body.
@torch.library.custom_op("sar_search::spatial_entropy", mutates_args=())
def _work_out(
    maps: Tensor, threshold: float, thresholds: Tensor | None, connectivity: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes entropies, empty maps, and the gradient of each entropy by its own map.

    Args:
        maps: (n, H, W), float32 or float64.
        threshold: Threshold of all maps, used if `thresholds` is None.
        thresholds: (n,) float64, one for each map; None: `threshold` for all.
        connectivity: 4 or 8 neighbours.
        with_gradient: Whether the gradient is computed.

    Returns:
        Entropies (n,), whether each map is empty, (n,) bool, and gradients (n, H, W), or (0,) without the
        gradient.
    """
    if maps.is_cuda and _fits_triton(maps):
        from pipeline.regularizers.kernels.entropy_triton import triton_entropy

        return triton_entropy(maps, threshold if thresholds is None else thresholds, connectivity, with_gradient)
    if thresholds is None:
        thresholds = torch.full(maps.shape[:1], threshold, dtype=torch.float64, device=maps.device)
    if maps.device.type == "cpu" and maps.numel() >= FEWEST_PIXELS:
        found: tuple[Tensor, Tensor, Tensor] = kernels().fused_entropy(maps, thresholds, connectivity, with_gradient)
        return found
    return plain_entropy(maps, thresholds, connectivity, with_gradient)


@_work_out.register_fake
def _(
    maps: Tensor, threshold: float, thresholds: Tensor | None, connectivity: int, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns outputs of the shapes and dtypes of `_work_out`, for tracing.

    Args:
        maps: As of `_work_out`.
        threshold: As of `_work_out`.
        thresholds: As of `_work_out`.
        connectivity: As of `_work_out`.
        with_gradient: As of `_work_out`.
    """
    count = maps.shape[0]
    gradient = torch.empty_like(maps, memory_format=torch.contiguous_format) if with_gradient else maps.new_empty(0)
    return maps.new_empty(count), maps.new_empty(count, dtype=torch.bool), gradient


def _fits_numba(maps: Tensor) -> bool:
    """Returns whether the compiled path of CPUs supports these maps and pays for its import."""
    if torch.compiler.is_compiling() or maps.device.type != "cpu" or maps.numel() < FEWEST_PIXELS:
        return False
    return maps.dtype in (torch.float32, torch.float64)


def _fits_triton(maps: Tensor) -> bool:
    """Returns whether the GPU kernel supports this grid, and triton is installed, as it is with CUDA's torch."""
    if not has_triton():
        return False
    from pipeline.regularizers.kernels.entropy_triton import LARGEST_SIDE

    return max(maps.shape[-2:]) <= LARGEST_SIDE
