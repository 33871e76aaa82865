"""The interface of a regulariser: a weight, the features that it needs, and a loss computed from them.

A method is one file of this folder: a function of tensors, and a `Regularizer` whose `needs` declare which
features `pipeline.train.objective` collects during the forward pass. A new method needs that file, a line in
`pipeline.regularizers.registry` and a section in `pipeline.config.schema`. A method outside of this package
needs neither of the last two (see `pipeline.regularizers.plugin`).

Shapes: B images, L tapped layers, A heads, H x W patches, T tokens, D channels (of a head in `heads`, else of
a token).
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
    """The features that a regulariser needs from the forward pass.

    Attributes:
        similarity: Blocks whose similarity maps are read; None: no maps.
        query: Query of the similarity maps: "cls", or "mean" (of the patches' queries).
        heads: Blocks whose head outputs are read; None: no head outputs.
        tokens: Whether the patch tokens after the last block are read.
        inputs: Whether the network's input images are read.
        with_cls: Whether the product of the CLS query with the CLS key is read too, in the blocks of
            `similarity`.
        masks: Whether the objects' masks are read. A data set without masks is then refused.
        blocks: Blocks whose output patch tokens are read; None: no blocks.

    Raises:
        ValueError: If `query` is neither "cls" nor "mean".
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
    """The features collected for one regulariser in one forward pass. A feature that is not required is None.

    All are float32 or float64, under autocast too. In training, all but the images and masks carry gradient
    into the network.

    Attributes:
        similarity: Similarity maps, (B, L, A, H, W).
        heads: Outputs of heads before the projection, (B, L, A, T, D).
        tokens: Final patch tokens, (B, H, W, D).
        inputs: Images, (B, channels, height, width).
        cls: Product of the CLS query with the CLS key, (B, L, A).
        masks: Share of the object in every pixel, (B, height, width), from 0 to 1; NaN where that is
            undecided.
        blocks: Patch tokens after each tapped block, (B, L, H, W, D).
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
    """The result of one regulariser for one batch.

    Attributes:
        loss: Unweighted loss, a scalar.
        monitors: Detached scalars by name, which are averaged over batches.
    """

    loss: Tensor
    monitors: Mapping[str, Tensor]


class Regularizer(nn.Module, ABC):
    """Base class of all methods.

    A subclass takes its own options as keywords of its constructor, beside `weight`.

    Parameters that `prepare` registers are trained with the network and are part of its checkpoints. A frozen
    network must be wrapped in a `Frozen`, which keeps it out of the optimizer and the checkpoints.

    Args:
        weight: Peak of the weight's schedule; 0 turns the loss off.
        needs: Features that the forward pass must provide.
        schedule: One of `regularizer_config.SCHEDULES`.
        watch: Whether the monitors are computed on validation images even at weight 0. At any other weight
            they always are.

    Raises:
        ValueError: If the schedule is unknown.
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
        """True if there is anything to compute: the weight is not 0, or the method is watched."""
        return self.weight != 0 or self.watch

    def weight_at(self, epoch: int, planned_epochs: int) -> float:
        """Returns the weight in an epoch counted from 0; see `regularizer_config.weight_at`."""
        return weight_at(self.weight, epoch, planned_epochs, self.schedule)

    def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
        """Creates the modules that are trained with the network, or checks what the network is compared with.

        Called once, before training. During the call, torch's global random stream is one of the method's
        own, decided by the run's seed. Parameters registered here are moved to the network's device
        afterwards.

        Args:
            model: The network, on its device.
            inputs_shape: (channels, height, width) of its images; () for a network of unknown architecture.

        Raises:
            ValueError: If the network cannot carry the method. The message names the network, the reason and
                a remedy.
        """

    @abstractmethod
    def forward(self, features: Features) -> RegularizerOutput:
        """Computes the unweighted loss and the monitors of one batch, outside of autocast.

        If several workers share a batch, their losses and monitors are averaged, weighted by their numbers of
        images. This is right for means over images. A mean over other things must divide by `global_count` of
        their number.
        """

    def of_members(self, features: Features, members: int) -> RegularizerOutput | None:
        """Computes the losses and the monitors of several networks that are trained as a stack, if the method can.

        The default calls for one call of the method for each network. A method whose calls would take long in total
        may give all results at once. It must have no state of its own then.

        Args:
            features: Features of the images of all networks, one network's after another's.
            members: Number of networks, M.

        Returns:
            The losses (M,), and the monitors by name, (M,) each; None: the method is to be called for each network.
        """
        return None

    def global_count(self, counts: Tensor) -> Tensor:
        """Returns the divisor for a mean over something other than images, such as maps that are not empty.

        With this divisor, the workers' average is the mean over the whole batch. The divisor of a single
        thing is `count_unit`, which is the least divisor that a method should use.

        Args:
            counts: Numbers of things in this worker's images, any shape.

        Returns:
            With one worker, `counts` unchanged. With several, the count of the whole batch scaled to this
            worker's share of the images, in float64.
        """
        return counts if self.total_over_workers is None else self.total_over_workers(counts)


class Frozen:
    """A frozen network beside the trained one, in evaluation mode, without gradients, on the same device.

    It is not a module, so its weights are not among the parameters or the state of a regulariser that holds
    one.

    Args:
        network: The network to freeze. It is moved to the device of `beside`.
        beside: The network that is trained.
        until: Index of the last block that is run, counted from 0; None: the whole network is run.
    """

    def __init__(self, network: nn.Module, *, beside: nn.Module, until: int | None = None) -> None:
        self.network = network.to(device_of(beside)).eval().requires_grad_(False)
        self.until = until

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> None:
        """Runs the network up to its last block that is read. Taps read the results."""
        if self.until is None:
            self.network(inputs)
        else:
            run_to_block(self.network, inputs, self.until)


def device_of(model: nn.Module) -> torch.device:
    """Returns the device of a network's weights, or the CPU for a network without weights.

    Args:
        model: Any network.
    """
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def at_least_float32(tensor: Tensor) -> Tensor:
    """Returns the tensor in float32, or unchanged if it is float64.

    Half precision loses small differences.

    Args:
        tensor: Any shape, floating point.

    Raises:
        ValueError: If the tensor holds integers, booleans or complex numbers.
    """
    if not tensor.is_floating_point():
        raise ValueError(f"floating point is needed, not {tensor.dtype}")
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def named_network(model: nn.Module) -> str:
    """Returns a network's class and size for messages, such as `VisionTransformer (4 blocks, 6 x 6 patches)`."""
    try:
        architecture = describe_network(model)
    except ValueError:
        return type(model).__name__
    rows, columns = architecture.grid
    return f"{type(model).__name__} ({architecture.blocks} blocks, {rows} x {columns} patches)"
