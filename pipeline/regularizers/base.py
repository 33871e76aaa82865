"""What a regulariser is to the rest: a weight, what it needs from the network, and a loss from that.

A method is one file of this room: pure mathematics on tensors below, and above it a `Regularizer` whose `needs` tells
`pipeline.train.objective` what to collect during the forward pass. Adding one is that file and a line in
`pipeline.regularizers.methods`.

Shapes: B images, L tapped layers, A heads, H x W patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.models.settings import LayerSpec
from pipeline.regularizers.settings import weight_at


@dataclass(frozen=True)
class Needs:
    """What a regulariser wants collected. similarity: the blocks whose similarity maps it reads, or None."""

    similarity: LayerSpec | None = None


@dataclass(frozen=True)
class Features:
    """What was collected for one regulariser in one forward pass. similarity: (B, L, A, H, W), as its needs say."""

    similarity: Tensor | None = None


@dataclass(frozen=True)
class Penalty:
    """A regulariser's answer. loss: scalar, unweighted. monitors: detached scalars by name, to be averaged."""

    loss: Tensor
    monitors: Mapping[str, Tensor]


class Regularizer(nn.Module, ABC):
    """Base of all methods. weight: peak of the schedule; needs: what the forward pass must provide."""

    def __init__(self, weight: float, needs: Needs) -> None:
        super().__init__()
        self.weight = weight
        self.needs = needs

    def weight_at(self, epoch: int, planned_epochs: int) -> float:
        """The weight in an epoch counted from 0; see `pipeline.regularizers.settings.weight_at`."""
        return weight_at(self.weight, epoch, planned_epochs)

    @abstractmethod
    def forward(self, features: Features) -> Penalty:
        """The unweighted loss of one batch and what is worth watching."""
