"""The objective: cross-entropy plus every regulariser's loss times its weight in this epoch.

The objective owns the taps that the regularisers need and what they train beside the network, so it is made when the
network is built and closed when the network leaves training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.architecture import describe_network
from pipeline.models.precision import without_autocast
from pipeline.regularizers.base import Regularizer, RegularizerOutput, at_least_float32, device_of
from pipeline.regularizers.features import Collector, carries_gradient

NO_GRADIENT = (
    "reads what model.freeze keeps as it is, and nothing else, so it has no gradient; freeze fewer blocks, let it read "
    "later ones, or set its weight to 0"
)


@dataclass(frozen=True)
class StepLoss:
    """One batch's loss. total: scalar to go backward from. logits (B, C), detached. monitors: detached scalars."""

    total: Tensor
    logits: Tensor
    monitors: Mapping[str, Tensor]


class Objective:
    """Cross-entropy + sum over methods of weight(epoch) * regulariser.

    class_weights: (C,), what the cross-entropy's term of each class is multiplied with in training: for label smoothing
    and mixed labels too, that of every class that an image has a share of. Scoring weighs nothing.

    Methods that have neither a weight nor a watcher are left out. The others are prepared for the network here: what
    they train beside it is `trainable`, whose first weights are drawn from a stream of each method's own, decided by
    `seed`, so that a method does not change what the network draws.

    Raises:
        ValueError: the network cannot give what a regulariser needs, or all that it reads is frozen; begins with
            `regularizer.` and the method's name.
    """

    def __init__(
        self,
        model: nn.Module,
        regularizers: Mapping[str, Regularizer],
        *,
        planned_epochs: int,
        label_smoothing: float = 0.0,
        class_weights: NDArray[np.float64] | None = None,
        seed: int = 0,
    ) -> None:
        self._model = model
        self._regularizers = {name: method for name, method in regularizers.items() if method.active}
        self._planned_epochs = planned_epochs
        self._label_smoothing = label_smoothing
        self._class_weights = None if class_weights is None else torch.tensor(class_weights, device=device_of(model))
        self._collectors: dict[str, Collector] = {}
        try:
            for name, method in self._regularizers.items():
                self._prepare(name, method, seed)
        except ValueError:
            self.close()
            raise
        self.trainable = nn.ModuleDict(self._regularizers)

    @property
    def needs_masks(self) -> bool:
        """Whether a method asks for the masks of the images."""
        return any(method.needs.masks for method in self._regularizers.values())

    def weights(self, epoch: int) -> dict[str, float]:
        """Every method's weight in an epoch counted from 0."""
        return {name: method.weight_at(epoch, self._planned_epochs) for name, method in self._regularizers.items()}

    def step(self, inputs: Tensor, labels: Tensor, epoch: int, masks: Tensor | None = None) -> StepLoss:
        """Forward pass and loss of one training batch. A method whose weight is 0 is not evaluated.

        inputs (B, C, H, W); labels (B,) int64, or (B, K) as shares that have the label smoothing in them already; masks
        (B, H, W) as of `Features`, for methods that ask for them.
        """
        weights = self.weights(epoch)
        for name, weight in weights.items():
            self._collectors[name].expect(weight != 0.0)
        logits = self._model(inputs)
        cross_entropy = self._cross_entropy(at_least_float32(logits), labels)
        monitors = {"cross_entropy": cross_entropy.detach()}
        total = cross_entropy
        for name, weight in weights.items():
            if weight == 0.0:
                continue
            output = self._regularize(name, inputs, masks)
            total = torch.add(total, output.loss, alpha=weight)
            monitors |= {f"{name}/{key}": value for key, value in output.monitors.items()}
        self._forget()
        monitors["loss"] = total.detach()
        return StepLoss(total, logits.detach(), monitors)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = 0.0 if labels.is_floating_point() else self._label_smoothing
        if self._class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        weights = self._class_weights.to(logits.dtype)
        # Of each image first: torch's own mean divides by the weights of the batch's labels, but not of mixed ones.
        losses = F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing, reduction="none")
        return losses.mean()

    @torch.no_grad()
    def score(self, inputs: Tensor, labels: Tensor, masks: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and monitors of a batch that is not trained on; every method is asked, whatever its weight then is."""
        logits = self._model(inputs)
        monitors = {"loss": F.cross_entropy(logits, labels)}
        for name in self._regularizers:
            output = self._regularize(name, inputs, masks)
            monitors |= {f"{name}/{key}": value for key, value in output.monitors.items()}
        self._forget()
        return logits, monitors

    def count_over_workers(self, total: Callable[[Tensor], Tensor] | None, unit: float = 1) -> None:
        """What every method's `global_count` and `count_unit` are until the next call; None: a single worker's."""
        for method in self._regularizers.values():
            method.total_over_workers, method.count_unit = total, unit

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What the methods have learnt, by method; those that learn nothing are left out."""
        states = {name: dict(method.state_dict()) for name, method in self._regularizers.items()}
        return {name: state for name, state in states.items() if state}

    def load_state(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from an earlier `state()`."""
        for name, state in states.items():
            self._regularizers[name].load_state_dict(state)

    def _prepare(self, name: str, method: Regularizer, seed: int) -> None:
        device = device_of(self._model)
        with torch.random.fork_rng(devices=[]):
            # The CPU's stream alone, and drawn there, so that first weights are the same on every device.
            state = np.random.SeedSequence([seed, *name.encode()]).generate_state(1, dtype=np.uint64)
            torch.default_generator.manual_seed(int(state[0] >> 1))  # torch takes 63 bits
            try:
                method.prepare(self._model, inputs_shape=_inputs_shape(self._model))
                self._collectors[name] = Collector(self._model, method.needs)
                if method.weight != 0 and not carries_gradient(self._model, method.needs):
                    raise ValueError(NO_GRADIENT)
            except ValueError as error:
                raise ValueError(f"regularizer.{name}: {error}") from error
        method.to(device)

    def _regularize(self, name: str, inputs: Tensor, masks: Tensor | None) -> RegularizerOutput:
        method, collector = self._regularizers[name], self._collectors[name]
        with without_autocast(inputs.device):
            output: RegularizerOutput = method(collector.features(inputs, masks))
        return output

    def _forget(self) -> None:
        for collector in self._collectors.values():
            collector.clear()

    def close(self) -> None:
        """Take the taps out of the network."""
        for collector in self._collectors.values():
            collector.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _inputs_shape(model: nn.Module) -> tuple[int, ...]:
    """(channels, height, width) of the images that a network takes; () for one of no known kind."""
    try:
        return describe_network(model).inputs
    except ValueError:
        return ()
