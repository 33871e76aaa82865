"""The objective: cross-entropy plus every regulariser's loss times its weight in this epoch.

The objective owns the taps that the regularisers need, and the parameters that they train beside the network.
It is therefore made after the network, and closed when training ends.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.architecture import describe_network
from pipeline.models.precision import without_autocast
from pipeline.regularizers.base import Features, Regularizer, RegularizerOutput, at_least_float32, device_of
from pipeline.regularizers.features import Collector, carries_gradient

NO_GRADIENT = (
    "reads only parts that model.freeze freezes, so it has no gradient; freeze fewer blocks, let it read "
    "later ones, or set its weight to 0"
)


@dataclass(frozen=True)
class StepLoss:
    """The loss of one batch.

    Attributes:
        total: scalar for the backward pass.
        logits: (B, C), detached.
        monitors: detached scalars by name.
    """

    total: Tensor
    logits: Tensor
    monitors: Mapping[str, Tensor]


class Tapped:
    """Owner of the taps of a network: a collector of features for each method, by its name."""

    def __init__(self) -> None:
        self._collectors: dict[str, Collector] = {}

    def _forget(self) -> None:
        """Drops what the taps hold of the last forward pass."""
        for collector in self._collectors.values():
            collector.clear()

    def close(self) -> None:
        """Removes the taps from the network."""
        for collector in self._collectors.values():
            collector.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the taps from the network."""
        self.close()


class Objective(Tapped):
    """Cross-entropy plus the sum over methods of weight(epoch) times the method's loss.

    Methods that have no weight and are not watched are left out. The others are prepared for the network here. The
    parameters that they train beside the network are in `trainable`. Their first values come from a random stream per
    method, determined by `seed`, so that a method does not change the network's random draws.

    Args:
        model: the network.
        regularizers: methods by name.
        planned_epochs: length of training, over which the methods' weights are scheduled.
        label_smoothing: of the cross-entropy in training.
        class_weights: (C,) factors of the cross-entropy's terms in training; None: no factors. With label smoothing
            and mixed labels, each class of which an image has a share has its own factor. Scoring uses no factors.
        seed: seed of the methods' first values.

    Raises:
        ValueError: the network lacks something that a regulariser needs, or all that it reads is frozen. The
            message begins with `regularizer.` and the method's name.
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
        super().__init__()
        self._model = model
        self._device = device_of(model)
        self._regularizers = {name: method for name, method in regularizers.items() if method.active}
        self._planned_epochs = planned_epochs
        self._label_smoothing = label_smoothing
        self._class_weights = None if class_weights is None else torch.tensor(class_weights, device=device_of(model))
        try:
            for name, method in self._regularizers.items():
                self._prepare(name, method, seed)
        except ValueError:
            self.close()
            raise
        self.trainable = nn.ModuleDict(self._regularizers)

    @property
    def methods(self) -> Mapping[str, Regularizer]:
        """The methods that are evaluated, by name."""
        return self._regularizers

    @property
    def needs_masks(self) -> bool:
        """True if a method needs the masks of the images."""
        return any(method.needs.masks for method in self._regularizers.values())

    def weights(self, epoch: int) -> dict[str, float]:
        """Returns the weight of every method in an epoch, counted from 0."""
        return {name: method.weight_at(epoch, self._planned_epochs) for name, method in self._regularizers.items()}

    def step(self, inputs: Tensor, labels: Tensor, epoch: int, masks: Tensor | None = None) -> StepLoss:
        """Runs the forward pass of one training batch and returns its loss. A method with weight 0 is not evaluated.

        Args:
            inputs: (B, C, H, W).
            labels: (B,) int64, or (B, K) as shares that already include the label smoothing.
            epoch: counted from 0.
            masks: (B, H, W) as in `Features`, for methods that need them; None: no method does.
        """
        weights = self.weights(epoch)
        for name, weight in weights.items():
            self._collectors[name].expect(weight != 0.0)
        logits = self._model(inputs)
        cross_entropy = self.cross_entropy(at_least_float32(logits), labels)
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

    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """Returns the cross-entropy in training, a scalar, or with the reduction "none" that of each image, (B,).

        Args:
            logits: (B, K), in float32 or float64.
            labels: (B,) int64, or (B, K) shares.
            reduction: "mean" or "none".
        """
        smoothing = 0.0 if labels.is_floating_point() else self._label_smoothing
        if self._class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction=reduction)
        weights = self._class_weights.to(logits.dtype)
        # The mean is taken here, since torch's own divides by the sum of the labels' weights, except for mixed labels.
        losses = F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing, reduction="none")
        return losses.mean() if reduction == "mean" else losses

    @torch.no_grad()
    def score(self, inputs: Tensor, labels: Tensor, masks: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the logits and monitors of a batch that is not trained on.

        Every method is evaluated, whatever its weight.

        Args:
            inputs: (B, C, H, W).
            labels: (B,) int64.
            masks: (B, H, W) as in `Features`, for methods that need them; None: no method does.
        """
        logits = self._model(inputs)
        monitors = {"loss": F.cross_entropy(logits, labels)}
        for name in self._regularizers:
            output = self._regularize(name, inputs, masks)
            monitors |= {f"{name}/{key}": value for key, value in output.monitors.items()}
        self._forget()
        return logits, monitors

    def count_over_workers(self, total: Callable[[Tensor], Tensor] | None, unit: float = 1) -> None:
        """Sets every method's `global_count` and `count_unit` until the next call; None: those of a single worker."""
        for method in self._regularizers.values():
            method.total_over_workers, method.count_unit = total, unit

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Returns the learnt state of the methods, by method; methods that learn nothing are left out."""
        states = {name: dict(method.state_dict()) for name, method in self._regularizers.items()}
        return {name: state for name, state in states.items() if state}

    def load_state(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Loads an earlier `state()`."""
        for name, state in states.items():
            self._regularizers[name].load_state_dict(state)

    def _prepare(self, name: str, method: Regularizer, seed: int) -> None:
        """Prepares a method for the network and attaches its taps.

        Args:
            name: the method's name.
            method: the method.
            seed: seed of the method's first values.

        Raises:
            ValueError: the network lacks something that the method needs, or all that it reads is frozen.
        """
        device = device_of(self._model)
        with torch.random.fork_rng(devices=[]):
            # First values are drawn from the CPU's stream alone, so that they are the same on every device.
            state = np.random.SeedSequence([seed, *name.encode()]).generate_state(1, dtype=np.uint64)
            torch.default_generator.manual_seed(int(state[0] >> 1))  # torch accepts 63 bits
            try:
                method.prepare(self._model, inputs_shape=_inputs_shape(self._model))
                self._collectors[name] = Collector(self._model, method.needs)
                if method.weight != 0 and not carries_gradient(self._model, method.needs):
                    raise ValueError(NO_GRADIENT)
            except ValueError as error:
                raise ValueError(f"regularizer.{name}: {error}") from error
        method.to(device)

    def evaluate(self, name: str, features: Features) -> RegularizerOutput:
        """Returns a method's output on features, computed without autocast.

        Args:
            name: the method's name.
            features: the features that the method needs.
        """
        with without_autocast(self._device):
            output: RegularizerOutput = self._regularizers[name](features)
        return output

    def _regularize(self, name: str, inputs: Tensor, masks: Tensor | None) -> RegularizerOutput:
        """Returns a method's output on the last forward pass.

        Args:
            name: the method's name.
            inputs: (B, C, H, W).
            masks: (B, H, W); None: no method needs masks.
        """
        with without_autocast(self._device):
            features = self._collectors[name].features(inputs, masks)
        return self.evaluate(name, features)


def _inputs_shape(model: nn.Module) -> tuple[int, ...]:
    """Returns (channels, height, width) of the images that a network takes; () for a network of an unknown kind."""
    try:
        return describe_network(model).inputs
    except ValueError:
        return ()
