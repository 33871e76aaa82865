"""Head disagreement: heads that answer alike are pushed apart; a baseline in SAR's released code (arXiv 2206.04636).

With O_a the output of head a for one image and block, before the projection, all tokens (CLS among them) and channels
as one vector:

    L_hd = mean over images of the mean over ordered pairs a != b of  cos(O_a, O_b)        layers added up

It is added to the loss, so a smaller value means heads that disagree more; it lies in [-1 / (A - 1), 1]. A head whose
output is 0 has no direction: it counts as a cosine of 0, without a gradient.
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
"""A head whose output is shorter than this counts as 0."""


class HeadDisagreement(Regularizer):
    """L_hd. layers: the blocks whose heads are to disagree. Monitors: `value`, the mean cosine over images and layers.

    Layers add up, since a mean would tie the weight to their number.
    """

    def __init__(
        self, *, weight: float, layers: LayerSpec = "last", schedule: str = "warmup_cosine", watch: bool = False
    ) -> None:
        super().__init__(weight, RequiredFeatures(heads=layers), schedule=schedule, watch=watch)

    def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
        """Refuse blocks of a single head.

        Raises:
            ValueError: one of the layers has one head, and so no pair that could disagree; or none that can be read.
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
        alike = head_agreement(features.heads)  # (B, L)
        return RegularizerOutput(alike.mean(dim=0).sum(), {"value": alike.detach().mean()})


def head_agreement(outputs: Tensor) -> Tensor:
    """Mean cosine similarity of the ordered pairs of different heads.

    outputs: (..., A, T, D), floating point; half precision is computed in float32. Returns (...); 0 for one head, which
    has no pair.

    Raises:
        ValueError: fewer than three dimensions, no head, or a dtype that is not floating point.
    """
    if outputs.ndim < 3 or outputs.shape[-3] == 0:
        raise ValueError(f"outputs of heads must be (..., A, T, D) with at least one head, not {tuple(outputs.shape)}")
    heads = at_least_float32(outputs).flatten(-2)
    count = heads.shape[-2]
    length = torch.linalg.vector_norm(heads, dim=-1, keepdim=True)
    # Divided by infinity a head without a direction is 0 and passes no gradient, where a small bound would pass 1e8.
    unit = heads / length.where(~(length < NO_DIRECTION), torch.inf)
    cosine = unit @ unit.mT
    # Both orders of a pair, without the diagonal.
    pairs = cosine.sum(dim=(-2, -1)) - cosine.diagonal(dim1=-2, dim2=-1).sum(-1)
    mean: Tensor = pairs / max(1, count * (count - 1))
    return mean
