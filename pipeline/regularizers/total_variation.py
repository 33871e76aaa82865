"""Total variation of similarity maps, a baseline of SAR's authors.

Peruzzo et al., arXiv 2206.04636, released code. With S a similarity map on the H x W grid:

    TV(S) = 1/2 sum_{y < H, x <= W} (S_{y+1,x} - S_{y,x})^2 + 1/2 sum_{y <= H, x < W} (S_{y,x+1} - S_{y,x})^2
    L_tv  = mean over images and heads of TV(S), layers added up

It is a sum over patches and, unlike an entropy, grows with the square of the map's scale. On networks trained
on CIFAR it is 70 to 320 for a map, so useful weights are small (1e-6 to 1e-2). A grid with a single row or
column has no differences in that direction.
"""

from torch import Tensor

from pipeline.models.model_config import LayerSpec
from pipeline.regularizers.base import Features, Regularizer, RegularizerOutput, RequiredFeatures, at_least_float32


class TotalVariation(Regularizer):
    """L_tv. Monitor: `value`, the mean over all maps.

    Layers add up, since a mean would tie the weight to their number. A map that is not finite makes the loss
    not finite, and training then stops as diverged.

    Args:
        weight: Peak of the weight's schedule.
        layers: Blocks whose similarity maps are smoothed.
        query: Query of these maps, "cls" or "mean".
        schedule: One of `regularizer_config.SCHEDULES`.
        watch: Whether the monitors are computed on validation images at weight 0 too.
    """

    def __init__(
        self,
        *,
        weight: float,
        layers: LayerSpec = "last",
        query: str = "cls",
        schedule: str = "warmup_cosine",
        watch: bool = False,
    ) -> None:
        super().__init__(weight, RequiredFeatures(similarity=layers, query=query), schedule=schedule, watch=watch)

    def forward(self, features: Features) -> RegularizerOutput:
        if features.similarity is None:
            raise ValueError("total variation needs similarity maps, and none were collected")
        return _means(total_variation(features.similarity))

    def of_members(self, features: Features, members: int) -> RegularizerOutput | None:
        """Computes the losses of a stack at once."""
        if features.similarity is None:
            return None
        return _means(total_variation(features.similarity).unflatten(0, (members, -1)))  # type: ignore[no-untyped-call]


def _means(variation: Tensor) -> RegularizerOutput:
    """Returns the loss and the monitor of variations (..., B, L, A)."""
    loss = variation.mean(dim=(-3, -1)).sum(-1)
    return RegularizerOutput(loss, {"value": variation.detach().mean(dim=(-3, -2, -1))})


def total_variation(similarity: Tensor) -> Tensor:
    """Computes half the sum of squared differences of neighbouring patches, for each map.

    Args:
        similarity: (..., H, W), floating point. Half precision is computed in float32.

    Returns:
        (...).

    Raises:
        ValueError: If there are fewer than two dimensions or no patch, or the dtype is not floating point.
    """
    if similarity.ndim < 2 or 0 in similarity.shape[-2:]:
        raise ValueError(f"similarity maps must be (..., H, W) with at least one patch, not {tuple(similarity.shape)}")
    maps = at_least_float32(similarity)
    down, right = maps.diff(dim=-2), maps.diff(dim=-1)
    return 0.5 * down.square().sum(dim=(-2, -1)) + 0.5 * right.square().sum(dim=(-2, -1))
