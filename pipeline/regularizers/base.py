"""What a regulariser is to the rest: a weight, what it needs from the network, and a loss from that.

A method is one file of this room: pure mathematics on tensors, and above it a `Regularizer` whose `needs` tells
`pipeline.train.objective` what to collect during the forward pass. Adding one is that file, a line in
`pipeline.regularizers.registry` and its section in `pipeline.config.schema`; a method outside of this package needs
neither (see `pipeline.regularizers.plugin`).

Shapes: B images, L tapped layers, A heads, H x W patches, T tokens, D channels (of a head in `heads`, else of a token).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.models.architecture import describe_network
from pipeline.models.model_config import LayerSpec
from pipeline.models.tap import run_to_block
from pipeline.regularizers.regularizer_config import SCHEDULES, weight_at


@dataclass(frozen=True)
class RequiredFeatures:
    """What a regulariser wants collected in the forward pass.

    similarity: the blocks whose similarity maps it reads, or None. query: whose query they are of, "cls" or "mean" (of
    the patches' queries). heads: the blocks whose heads' outputs it reads, or None. tokens: the patch tokens that the
    last block leaves. inputs: the images that the network was given. with_cls: of the similarity maps' blocks also the
    CLS query's product with the CLS key. masks: where the objects are in the images; a set without masks is refused.
    blocks: the blocks whose patch tokens it reads, as they put them out, or None.
    """

    similarity: LayerSpec | None = None
    query: str = "cls"
    heads: LayerSpec | None = None
    tokens: bool = False
    inputs: bool = False
    with_cls: bool = False
    masks: bool = False
    blocks: LayerSpec | None = None

    def __post_init__(self) -> None:
        if self.query not in ("cls", "mean"):
            raise ValueError(f"query: must be cls or mean, not {self.query!r}")


@dataclass(frozen=True)
class Features:
    """What was collected for one regulariser in one forward pass; None where its needs do not say so.

    similarity (B, L, A, H, W); heads (B, L, A, T, D), before the projection; tokens (B, H, W, D); inputs, the images
    (B, channels, height, width); cls (B, L, A), the CLS query's product with the CLS key; masks (B, height, width), of
    every pixel how much of it is object, 0 to 1, NaN where nobody has decided that; blocks (B, L, H, W, D), their patch
    tokens. All are of float32 at least, under autocast too; in training all but images and masks carry gradient into
    the network.
    """

    similarity: Tensor | None = None
    heads: Tensor | None = None
    tokens: Tensor | None = None
    inputs: Tensor | None = None
    cls: Tensor | None = None
    masks: Tensor | None = None
    blocks: Tensor | None = None


@dataclass(frozen=True)
class RegularizerOutput:
    """A regulariser's answer. loss: scalar, unweighted. monitors: detached scalars by name, to be averaged."""

    loss: Tensor
    monitors: Mapping[str, Tensor]


class Regularizer(nn.Module, ABC):
    """Base of all methods. A subclass names its own options as keywords of its constructor, beside `weight`.

    weight: peak of the schedule. needs: what the forward pass must provide. schedule: one of
    `regularizer_config.SCHEDULES`. watch: whether the method's monitors are taken on validation images even at weight
    0; at any other they always are.

    Parameters that `prepare` registers are trained with the network and go on from its checkpoints. A frozen network
    belongs into a `Frozen`, where neither the optimizer nor a checkpoint finds it.

    Raises:
        ValueError: an unknown schedule.
    """

    total_over_workers: Callable[[Tensor], Tensor] | None = None
    count_unit: float = 1

    def __init__(
        self, weight: float, needs: RequiredFeatures, *, schedule: str = "warmup_cosine", watch: bool = False
    ) -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule: unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
        self.weight = weight
        self.needs = needs
        self.schedule = schedule
        self.watch = watch

    @property
    def active(self) -> bool:
        """Whether there is anything to compute: a weight, or a value to watch."""
        return self.weight != 0 or self.watch

    def weight_at(self, epoch: int, planned_epochs: int) -> float:
        """The weight in an epoch counted from 0; see `pipeline.regularizers.regularizer_config.weight_at`."""
        return weight_at(self.weight, epoch, planned_epochs, self.schedule)

    def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
        """Make what is trained with the network, or check what it is compared with; called once, before training.

        model: the network, on its device. inputs_shape: (channels, height, width) of its images, () of a network of
        no known kind. torch's global stream is then one of the method's own, decided by the run's seed, and the
        parameters registered here are moved to the network's device afterwards.

        Raises:
            ValueError: a network that cannot carry the method; says which, why, and what would do.
        """

    @abstractmethod
    def forward(self, features: Features) -> RegularizerOutput:
        """The unweighted loss of one batch and what is worth watching; computed outside of autocast.

        Several workers may share a batch: their losses and monitors are then averaged by the number of their images,
        which is right for means over images. What is divided by another count is divided by `global_count` of it.
        """

    def global_count(self, counts: Tensor) -> Tensor:
        """What to divide by, so that a mean over `counts` things of these images becomes one over the whole batch's.

        counts: of things that are unevenly spread over images, such as maps that are not empty; any shape. Returns
        them as they are where the whole batch is here, and in float64 where it is not. A single thing then counts as
        `count_unit`.
        """
        return counts if self.total_over_workers is None else self.total_over_workers(counts)


class Frozen:
    """A network that is only looked through: in evaluation mode, without gradients, beside another on its device.

    It is no module, so a regulariser that holds one has nothing of it among its parameters or its state. until: the
    last block that is read, counted from 0, beyond which the network is not run; None: all of it.
    """

    def __init__(self, network: nn.Module, *, beside: nn.Module, until: int | None = None) -> None:
        self.network = network.to(device_of(beside)).eval().requires_grad_(False)
        self.until = until

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> None:
        """Run it as far as it is read; what is wanted of it is read by taps."""
        if self.until is None:
            self.network(inputs)
        else:
            run_to_block(self.network, inputs, self.until)


def device_of(model: nn.Module) -> torch.device:
    """Where a network is; the CPU for one without weights."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if that is what it is: half precision loses small differences.

    Raises:
        ValueError: integers, booleans or complex numbers.
    """
    if not tensor.is_floating_point():
        raise ValueError(f"floating point is needed, not {tensor.dtype}")
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def named_network(model: nn.Module) -> str:
    """A network by its class and what distinguishes it, for messages: `VisionTransformer (4 blocks, 6 x 6 patches)`."""
    try:
        architecture = describe_network(model)
    except ValueError:
        return type(model).__name__
    rows, columns = architecture.grid
    return f"{type(model).__name__} ({architecture.blocks} blocks, {rows} x {columns} patches)"
