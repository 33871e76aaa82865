"""A regulariser in a training loop of the user's own, without the pipeline's objective (docs/library.md)."""

from typing import Self

import torch
from torch import Tensor, nn

from pipeline.models.architecture import describe_network
from pipeline.models.precision import without_autocast
from pipeline.regularizers.base import Regularizer, RegularizerOutput, device_of
from pipeline.regularizers.features import Collector, carries_gradient


class Attached:
    """A regulariser that is attached to a network, and gives the term of each training step.

    It follows every forward pass of the network and keeps what the regulariser reads of the last one, until a term is
    taken or the next pass begins.

    Args:
        method: The regulariser. The parameters that it trains, if there are any, are created here: give
            `method.parameters()` to the optimizer too.
        model: Network of timm, on the device that it is trained on. `torch.compile` and DistributedDataParallel come
            afterwards.
        epochs: Planned length of training, over which the weight of the regulariser is scheduled.

    Raises:
        ValueError: If the network cannot carry the method, or all that the method reads is frozen. The network is
            then as before.
    """

    def __init__(self, method: Regularizer, model: nn.Module, *, epochs: int) -> None:
        method.prepare(model, inputs_shape=describe_network(model).inputs)
        if not carries_gradient(model, method.needs):
            raise ValueError("all that the regulariser reads of this network is frozen, so it would have no gradient")
        self._collector = Collector(model, method.needs)
        self._device = device_of(model)
        self._epochs = epochs
        self.method = method.to(self._device)

    def term(self, epoch: int, *, inputs: Tensor | None = None, masks: Tensor | None = None) -> Tensor:
        """Returns the weighted loss of the last forward pass, which is added to the loss of the task.

        Args:
            epoch: The epoch, counted from 0.
            inputs: Images of that pass, (B, C, height, width), for methods that read them.
            masks: Masks of these images, (B, height, width) as in `Features`, for methods that read them.

        Returns:
            A scalar, float32 or float64. It is 0 without a gradient in epochs in which the weight is 0.

        Raises:
            RuntimeError: If the network has not run since the last term.
            ValueError: If the epoch is not among those planned, or the method reads images or masks that are not given.
        """
        weight = self.method.weight_at(epoch, self._epochs)
        if weight == 0:
            self._collector.clear()
            return torch.zeros((), device=self._device)
        return weight * self.measure(inputs=inputs, masks=masks).loss

    def measure(self, *, inputs: Tensor | None = None, masks: Tensor | None = None) -> RegularizerOutput:
        """Returns the unweighted loss and the monitors of the last forward pass, on validation images for instance.

        Args:
            inputs: As of `term`.
            masks: As of `term`.

        Raises:
            RuntimeError: As of `term`.
            ValueError: If the method reads images or masks that are not given.
        """
        needs = self.method.needs
        for name, needed, given in (("inputs", needs.inputs, inputs), ("masks", needs.masks, masks)):
            if needed and given is None:
                raise ValueError(f"{type(self.method).__name__} reads the {name} of the forward pass; pass {name}=...")
        with without_autocast(self._device):
            output: RegularizerOutput = self.method(self._collector.features(inputs, masks))
        self._collector.clear()
        return output

    def close(self) -> None:
        """Removes the taps from the network."""
        self._collector.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the taps from the network."""
        self.close()
