"""The objective: cross-entropy plus every regulariser's loss times its weight in this epoch.

The objective owns the taps that the regularisers need, so it is made when the network is built and closed when the
network leaves training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.tap import SimilarityTap
from pipeline.regularizers.base import Features, Regularizer


@dataclass(frozen=True)
class StepLoss:
    """One batch's loss. total: scalar to go backward from. logits (B, C), detached. monitors: detached scalars."""

    total: Tensor
    logits: Tensor
    monitors: Mapping[str, Tensor]


class Objective:
    """Cross-entropy + sum over methods of weight(epoch) * regulariser.

    Raises:
        ValueError: the network cannot give what a regulariser needs.
    """

    def __init__(
        self,
        model: nn.Module,
        regularizers: Mapping[str, Regularizer],
        *,
        planned_epochs: int,
        label_smoothing: float = 0.0,
    ) -> None:
        self._model = model
        self._regularizers = dict(regularizers)
        self._planned_epochs = planned_epochs
        self._label_smoothing = label_smoothing
        self._taps: dict[str, SimilarityTap] = {}
        try:
            for name, regularizer in regularizers.items():
                if regularizer.needs.similarity is not None:
                    self._taps[name] = SimilarityTap(model, regularizer.needs.similarity)
        except ValueError:
            self.close()
            raise

    def weights(self, epoch: int) -> dict[str, float]:
        """Every method's weight in an epoch counted from 0."""
        return {name: method.weight_at(epoch, self._planned_epochs) for name, method in self._regularizers.items()}

    def step(self, inputs: Tensor, labels: Tensor, epoch: int) -> StepLoss:
        """Forward pass and loss of one training batch. A method whose weight is 0 is not evaluated."""
        logits = self._model(inputs)
        cross_entropy = F.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)
        monitors = {"cross_entropy": cross_entropy.detach()}
        total = cross_entropy
        for name, weight in self.weights(epoch).items():
            if weight == 0.0:
                continue
            penalty = self._regularizers[name](self._features(name))
            total = total + weight * penalty.loss
            monitors |= {f"{name}/{key}": value for key, value in penalty.monitors.items()}
        self._forget()
        monitors["loss"] = total.detach()
        return StepLoss(total, logits.detach(), monitors)

    @torch.no_grad()
    def score(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and monitors of a batch that is not trained on; every method is watched, those of weight 0 too."""
        logits = self._model(inputs)
        monitors = {"loss": F.cross_entropy(logits, labels)}
        for name, method in self._regularizers.items():
            monitors |= {f"{name}/{key}": value for key, value in method(self._features(name)).monitors.items()}
        self._forget()
        return logits, monitors

    def _features(self, name: str) -> Features:
        tap = self._taps.get(name)
        return Features(similarity=tap.maps() if tap else None)

    def _forget(self) -> None:
        for tap in self._taps.values():
            tap.clear()

    def close(self) -> None:
        """Take the taps out of the network."""
        for tap in self._taps.values():
            tap.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
