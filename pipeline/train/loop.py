"""The training loop: `fit` is a generator that yields after every epoch, and whoever drives it decides to go on.

Every random stream depends on nothing but the seed and the epoch, so a run continued from a checkpoint gives, on a CPU,
the same numbers as the unbroken one, without any generator's state having been saved.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.data.batches import ImageBatches
from pipeline.regularizers.base import Regularizer
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer, make_schedule
from pipeline.train.settings import TrainConfig


class Diverged(Exception):
    """The training loss, or a weight, is no longer finite. Holds the epoch (counted from 1) in which that was seen."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the training loss or a weight was not finite in epoch {epoch}")
        self.epoch = epoch


@dataclass(frozen=True)
class Epoch:
    """A finished epoch. number: counted from 1. metrics: by name. state: gives what `fit(resume=...)` goes on from."""

    number: int
    metrics: Mapping[str, float]
    state: Callable[[], dict[str, Any]]


def choose_device(name: str) -> torch.device:
    """The device that "auto" (CUDA where there is one), "cpu" or "cuda" means here.

    Raises:
        ValueError: "cuda" where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("base.device is cuda, but torch sees no CUDA device here; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def seed_everything(seed: int, *streams: int) -> None:
    """Seed torch's global random streams from a seed and any further numbers."""
    mixed = np.random.SeedSequence([seed, *streams]).generate_state(1, dtype=np.uint64)[0]
    torch.manual_seed(int(mixed >> 1))  # torch takes 63 bits


def fit(
    model: nn.Module,
    train: ImageBatches,
    config: TrainConfig,
    *,
    val: ImageBatches | None = None,
    regularizers: Mapping[str, Regularizer] | None = None,
    seed: int = 0,
    resume: Mapping[str, Any] | None = None,
) -> Iterator[Epoch]:
    """Train a network and yield every finished epoch.

    model and batches live on one device already. val: scored after every epoch when given. regularizers: by method
    name. seed: of the batches' order and of all that is drawn during training. resume: `Epoch.state()` of an earlier
    run whose weights the model has been given.

    Metrics: train/loss, train/cross_entropy, train/accuracy, train/lr, val/loss and val/accuracy; for a method M
    val/M/... its monitors, train/M/weight and, where that is not 0, train/M/...; seconds (of the epoch).

    Raises:
        Diverged: the loss of an epoch, or a weight after it, is not finite. The weights are then of no use.
        ValueError: the network cannot give what a regulariser needs.
    """
    methods = dict(regularizers or {})
    steps = -(-len(train) // config.batch_size)
    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, config, steps)
    first = 0
    if resume is not None:
        optimizer.load_state_dict(resume["optimizer"])
        first = int(resume["epoch"])
    objective = Objective(model, methods, planned_epochs=config.epochs, label_smoothing=config.label_smoothing)
    with objective:
        for epoch in range(first, config.epochs):
            started = time.perf_counter()
            seed_everything(seed, epoch)
            model.train()
            means = _Means()
            for step, (inputs, labels) in enumerate(train.shuffled(config.batch_size, seed=seed, epoch=epoch)):
                schedule.step_update(epoch * steps + step)
                monitors = take_step(model, objective, optimizer, inputs, labels, epoch=epoch, config=config)
                means.add(monitors, len(labels))
            metrics = {f"train/{name}": value for name, value in means.read().items()}
            # The losses are from before each step, so what the last one did is seen in the weights.
            if not np.isfinite(metrics["train/loss"]) or not _all_finite(model):
                raise Diverged(epoch + 1)
            metrics["train/lr"] = float(optimizer.param_groups[0]["lr"])
            metrics |= {f"train/{name}/weight": weight for name, weight in objective.weights(epoch).items()}
            if val is not None:
                metrics |= {f"val/{name}": value for name, value in score(model, objective, val, config).items()}
            metrics["seconds"] = time.perf_counter() - started

            def state(done: int = epoch + 1) -> dict[str, Any]:
                return {"epoch": done, "optimizer": optimizer.state_dict()}

            yield Epoch(epoch + 1, metrics, state)


def take_step(
    model: nn.Module,
    objective: Objective,
    optimizer: Optimizer,
    inputs: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """One step of the optimizer on one batch, run in `config.accumulate` pieces as equal as can be.

    inputs (B, C, H, W), labels (B,); a batch of fewer images than pieces is run image by image. epoch: counted from 0.
    Returns the monitors of `Objective.step`, and accuracy, as means over the batch's images: detached scalars.

    A piece's loss counts by its share of the images, so the gradient of the cross-entropy is that of the whole batch,
    but for rounding. What is drawn at random inside the network (dropout, stochastic depth) is drawn piece by piece: by
    the same law, but other values. A regulariser's mean over maps that are not empty is taken in each piece, so where
    empty maps are spread unevenly over the pieces, the maps of a piece with many of them weigh more than in the whole.
    """
    optimizer.zero_grad(set_to_none=True)
    monitors: dict[str, Tensor] = {}
    pieces = min(config.accumulate, len(labels))
    for images, answers in zip(inputs.tensor_split(pieces), labels.tensor_split(pieces), strict=True):
        share = len(answers) / len(labels)  # 1.0 for a whole batch, which changes no bit of it
        loss = objective.step(images, answers, epoch)
        (loss.total * share).backward()  # type: ignore[no-untyped-call, unused-ignore]
        for name, value in {**loss.monitors, "accuracy": _accuracy(loss.logits, answers)}.items():
            term = value.detach().double() * share
            monitors[name] = monitors[name] + term if name in monitors else term
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
    optimizer.step()
    return monitors


def score(model: nn.Module, objective: Objective, images: ImageBatches, config: TrainConfig) -> dict[str, float]:
    """Monitors of `Objective.score`, and accuracy, as means over images; leaves the network in evaluation mode."""
    model.eval()
    means = _Means()
    # Whoever cuts batches for want of memory has none to spare here.
    for inputs, labels in images.in_order(-(-max(256, config.batch_size) // config.accumulate)):
        logits, monitors = objective.score(inputs, labels)
        means.add({**monitors, "accuracy": _accuracy(logits, labels)}, len(labels))
    return means.read()


@torch.inference_mode()
def predict(model: nn.Module, images: ImageBatches, *, batch_size: int = 256) -> Tensor:
    """Class probabilities of images in the order of their ids, (N, C) float32 on the CPU."""
    model.eval()
    return torch.cat([model(inputs).softmax(-1).float().cpu() for inputs, _ in images.in_order(batch_size)])


def _all_finite(model: nn.Module) -> bool:
    return bool(torch.stack([weights.isfinite().all() for weights in model.parameters()]).all())


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).double().mean()


class _Means:
    """Means over images, summed on the device and read once an epoch, so that no step waits for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor], count: int) -> None:
        for name, value in values.items():
            term = value.detach().double() * count
            self._sums[name] = self._sums[name] + term if name in self._sums else term
        self._count += count

    def read(self) -> dict[str, float]:
        return {name: float(total) / self._count for name, total in self._sums.items()}
