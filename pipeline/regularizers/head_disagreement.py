"""Head disagreement: pushes apart heads with similar outputs.

A baseline in SAR's released code (Peruzzo et al., arXiv 2206.04636). With O_a the output of head a for one
image and block, before the projection, all tokens (CLS among them) and channels as one vector:

    L_hd = mean over images of the mean over ordered pairs a != b of  cos(O_a, O_b)        layers added up

The term is added to the loss, so a smaller value means heads that disagree more. It lies in [-1 / (A - 1),
1]. A head whose output is 0 has no direction: it counts as a cosine of 0, without a gradient.
"""

import torch
from torch import Tensor, nn

from pipeline.models.architecture import describe_network, num_heads
from pipeline.models.model_config import LayerSpec
from pipeline.regularizers.base import (
    Features,
    Regularizer,
    RegularizerOutput,
    RequiredFeatures,
    at_least_float32,
    named_network,
)

NO_DIRECTION = 1e-8
"""Length of a head's output below which the output counts as 0."""


class HeadDisagreement(Regularizer):
    """L_hd. Monitor: `value`, the mean cosine over images and layers.

    Layers add up, since a mean would tie the weight to their number.

    Args:
        weight: Peak of the weight's schedule.
        layers: Blocks whose heads are compared.
        schedule: One of `regularizer_config.SCHEDULES`.
        watch: Whether the value is computed on validation images at weight 0 too.
    """

    def __init__(
        self, *, weight: float, layers: LayerSpec = "last", schedule: str = "warmup_cosine", watch: bool = False
    ) -> None:
        super().__init__(weight, RequiredFeatures(heads=layers), schedule=schedule, watch=watch)

    def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
        """Checks that every block has at least two heads.

        Raises:
            ValueError: If a block has a single head, and so no pair, or if the network has no such blocks.
        """
        assert self.needs.heads is not None
        for layer in describe_network(model).resolve(self.needs.heads):
            if (heads := num_heads(model, layer)) < 2:
                raise ValueError(
                    f"head disagreement compares heads, but block {layer} of {named_network(model)} has {heads}; give "
                    "the network at least 2 (model.kwargs: num_heads), or choose other layers"
                )

    def forward(self, features: Features) -> RegularizerOutput:
        if features.heads is None:
            raise ValueError("head disagreement needs the outputs of heads, and none were collected")
        return _means(head_agreement(features.heads))

    def of_members(self, features: Features, members: int) -> RegularizerOutput | None:
        """Computes the losses of a stack at once."""
        if features.heads is None:
            return None
        return _means(head_agreement(features.heads).unflatten(0, (members, -1)))  # type: ignore[no-untyped-call]


def _means(alike: Tensor) -> RegularizerOutput:
    """Returns the loss and the monitor of cosines (..., B, L)."""
    return RegularizerOutput(alike.mean(dim=-2).sum(-1), {"value": alike.detach().mean(dim=(-2, -1))})


def head_agreement(outputs: Tensor) -> Tensor:
    """Computes the mean cosine similarity over ordered pairs of different heads.

    Args:
        outputs: (..., A, T, D), floating point. Half precision is computed in float32.

    Returns:
        (...); 0 for a single head, which has no pair.

    Raises:
        ValueError: If there are fewer than three dimensions, no head, or the dtype is not floating point.
    """
    if outputs.ndim < 3 or outputs.shape[-3] == 0:
        raise ValueError(f"outputs of heads must be (..., A, T, D) with at least one head, not {tuple(outputs.shape)}")
    heads = at_least_float32(outputs).flatten(-2)
    count = heads.shape[-2]
    length = torch.linalg.vector_norm(heads, dim=-1, keepdim=True)
    # Divided by infinity, a head without a direction becomes 0 and passes no gradient. A small lower bound on the
    # length would pass a gradient of 1e8.
    unit = heads / length.where(~(length < NO_DIRECTION), torch.inf)
    cosine = unit @ unit.mT
    # Both orders of a pair, without the diagonal.
    pairs = cosine.sum(dim=(-2, -1)) - cosine.diagonal(dim1=-2, dim2=-1).sum(-1)
    mean: Tensor = pairs / max(1, count * (count - 1))
    return mean
