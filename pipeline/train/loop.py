"""The training loop: `fit` is a generator that yields after every epoch, and its caller decides whether to continue.

Every random stream depends only on the seed and the epoch. On a CPU, a run resumed from a checkpoint
therefore gives the same numbers as an uninterrupted one, although no generator's state is saved.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.data.batches.batches import ImageBatches
from pipeline.models.freeze import enter_training
from pipeline.regularizers.base import Regularizer, device_of
from pipeline.train.class_weights import weights_by_label
from pipeline.train.compilation import StepCompiler, original_network
from pipeline.train.cpu.onednn_linear import use_onednn_linear
from pipeline.train.distributed import SharedObjective, streams_of, total
from pipeline.train.ema import make_average, swapped_weights
from pipeline.train.loader import TrainLoader, check_masks, object_shares
from pipeline.train.memory import checkpointed, raise_gc_threshold, retain_freed_memory
from pipeline.train.objective import Objective
from pipeline.train.optim import learning_rate, make_optimizer, make_schedule
from pipeline.train.rank_info import RankInfo
from pipeline.train.sidecar import TrainState
from pipeline.train.step import accuracy, take_step
from pipeline.train.train_config import TrainConfig
from pipeline.train.usage import UsageMeter


class Diverged(Exception):
    """Raised when the training loss, or a weight, is no longer finite.

    Args:
        epoch: the epoch, counted from 1, in which this was found.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the training loss or a weight was not finite in epoch {epoch}")
        self.epoch = epoch


@dataclass(frozen=True)
class Epoch:
    """A finished epoch.

    Attributes:
        number: number of the epoch, counted from 1.
        metrics: values by name.
        model: network with the weights to store: the averaged ones if there is an average.
        state: returns the training state from which, with these weights, `fit(resume=...)` continues.
        correct: returns whether each validation image is classified correctly, (N,) bool in the order of
            their ids; None: there are no validation images.
        probabilities: returns the class probabilities of the validation images, (N, C); None: there are none.
        usage: the epoch's use of the machine (`pipeline.train.usage`); it is no result, and so not among the metrics.
    """

    number: int
    metrics: Mapping[str, float]
    model: nn.Module
    state: Callable[[], TrainState]
    correct: Callable[[], NDArray[np.bool_]] | None = None
    probabilities: Callable[[], NDArray[np.float32]] | None = None
    usage: Mapping[str, float] = field(default_factory=dict)


def choose_device(name: str) -> torch.device:
    """Returns the device that a name stands for on this machine.

    Args:
        name: "auto" (CUDA if available), "cpu" or "cuda".

    Raises:
        ValueError: "cuda" on a machine without CUDA.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("base.device is cuda, but torch sees no CUDA device here; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def seed_everything(seed: int, *streams: int) -> None:
    """Seeds torch's global random streams.

    Args:
        seed: the seed.
        streams: further numbers; each combination gives other streams.
    """
    torch.manual_seed(mixed_seed(seed, *streams))


def mixed_seed(seed: int, *streams: int) -> int:
    """Returns the number by which `seed_everything` seeds torch's streams.

    Args:
        seed: the seed.
        streams: further numbers.
    """
    mixed = np.random.SeedSequence([seed, *streams]).generate_state(1, dtype=np.uint64)[0]
    return int(mixed >> 1)  # torch accepts 63 bits


def fit(
    model: nn.Module,
    train: ImageBatches,
    config: TrainConfig,
    *,
    val: ImageBatches | None = None,
    regularizers: Mapping[str, Regularizer] | None = None,
    seed: int = 0,
    resume: TrainState | None = None,
    world: RankInfo | None = None,
    meter: UsageMeter | None = None,
) -> Iterator[Epoch]:
    """Trains a network and yields every finished epoch.

    The metrics have these names:

        train/loss, train/cross_entropy, train/accuracy, train/lr, val/loss, val/accuracy
        val/M/...       monitors of a method M that has a weight or is watched
        train/M/weight  its weight in the epoch; if that is not 0, train/M/... has its monitors
        seconds         duration of the epoch

    Metrics of train/ are measured during training, on augmented and mixed images and changing weights. Their
    losses include the recipe's class weights, and train/accuracy of a mixed image refers to the label with
    the larger share. Metrics of val/ are measured with the weights to store, in the network's own precision,
    with equal weights for all images.

    Args:
        model: the network, on the same device as the images.
        train: training images.
        config: the recipe.
        val: images that are scored after every epoch; None: no scoring.
        regularizers: methods by name; None: none.
        seed: seed of the batches' order and of all random draws during training.
        resume: `Epoch.state()` of an earlier run, whose `Epoch.model` has given `model` its weights; None: a new run.
        world: this worker's rank among several that train the network together; None: a single worker. All of them
            call this function with otherwise equal arguments, and yield equal epochs (`pipeline.train.distributed`).
        meter: measures each epoch's use of the machine; None: nothing is measured.

    Raises:
        Diverged: the loss of an epoch, or a weight after it, is not finite. The weights are then useless.
        ValueError: the network or the data lack something that a regulariser or the recipe needs.
    """
    methods = dict(regularizers or {})
    retain_freed_memory()
    raise_gc_threshold()
    steps = -(-len(train) // config.batch_size)
    first = 0 if resume is None else int(resume["epoch"])
    left = steps * (config.epochs - first)
    shares = None if world is None else world.shares(len(train), config.batch_size, config.accumulate)
    check_masks(methods, train)
    masked = any(method.needs.masks and method.weight for method in methods.values())
    loader = TrainLoader(train, config, model=model, seed=seed, shares=shares, masks=masked)
    average = make_average(model, config)  # it starts from the weights that the caller loaded
    if resume is not None and "model" in resume:
        model.load_state_dict(resume["model"])
    objective = Objective(
        model,
        methods,
        planned_epochs=config.epochs,
        label_smoothing=config.label_smoothing,
        class_weights=weights_by_label(config, train.labels, train.classes),
        seed=seed,
    )
    with (
        nullcontext() if meter is None else meter,
        objective,
        checkpointed(model, config.grad_checkpointing),
        use_onednn_linear(model),
        StepCompiler(
            model,
            config,
            device=device_of(model),
            batch=min(config.batch_size, len(train)),
            steps=left,
            shared=world is not None,
        ) as compiler,
    ):
        optimizer = make_optimizer(model, config, beside=objective.trainable)
        schedule = make_schedule(optimizer, config, steps)
        if resume is not None:
            objective.load_state(resume.get("regularizers", {}))
            optimizer.load_state_dict(resume["optimizer"])
        stepped = objective if world is None else SharedObjective(model, objective)
        for epoch in range(first, config.epochs):
            started = time.perf_counter()
            batches = loader.with_masks(epoch)
            if meter is not None:
                meter.begin()
                batches = meter.timed(batches)
            seed_everything(seed, epoch, *streams_of(world))
            enter_training(model)
            means = Means()
            for step, (inputs, labels, masks) in enumerate(batches, start=epoch * steps):
                schedule.step_update(step)
                shard = None if shares is None else shares[step - epoch * steps]
                arguments = model, stepped, optimizer, inputs, labels, masks
                work = partial(take_step, *arguments, epoch=epoch, config=config, shard=shard)
                monitors = compiler.run(work, images=len(labels) if shard is None else shard.images)
                if average is not None:
                    average.update(model, step + 1)
                means.add(monitors, len(labels) if shard is None else shard.images)
            averaged = None if average is None else average.model
            ended = end_epoch(
                model,
                objective,
                means.read(None if world is None else total),
                config,
                number=epoch + 1,
                rate=learning_rate(optimizer),
                val=val,
                averaged=averaged,
                optimizer_state=optimizer.state_dict,
                meter=meter,
            )
            usage = {} if meter is None else meter.read()
            seconds = {"seconds": time.perf_counter() - started}
            yield replace(ended, metrics={**ended.metrics, **seconds}, usage=usage)


def end_epoch(
    model: nn.Module,
    objective: Objective,
    means: Mapping[str, float],
    config: TrainConfig,
    *,
    number: int,
    rate: float,
    val: ImageBatches | None,
    averaged: nn.Module | None,
    optimizer_state: Callable[[], Mapping[str, Any]],
    meter: UsageMeter | None = None,
) -> Epoch:
    """Returns an epoch of a network after its last step, without its duration and its use of the machine.

    Args:
        model: the network.
        objective: its objective.
        means: means of the training's monitors.
        config: the recipe.
        number: number of the epoch, counted from 1.
        rate: last learning rate.
        val: images to score; None: none.
        averaged: network with the averaged weights; None: there is no average.
        optimizer_state: returns the state of the network's optimizer.
        meter: measures the wait for each batch of `val`; None: nothing is measured.

    Raises:
        Diverged: the loss or a weight is not finite.
    """
    metrics = {f"train/{name}": value for name, value in means.items()}
    # A loss is computed before its step, so the effect of the last step shows only in the weights.
    if not np.isfinite(metrics["train/loss"]) or not _all_finite(model, objective.trainable):
        raise Diverged(number)
    metrics["train/lr"] = rate
    metrics |= {f"train/{name}/weight": weight for name, weight in objective.weights(number - 1).items()}
    correct: Callable[[], NDArray[np.bool_]] | None = None
    probabilities: Callable[[], NDArray[np.float32]] | None = None
    if val is not None:
        logits: list[Tensor] = []
        with nullcontext() if averaged is None else swapped_weights(model, averaged):
            scores, right = score(model, objective, val, config, logits=logits, meter=meter)
        correct, probabilities = partial(_to_numpy, right), partial(_to_shares, logits)
        metrics |= {f"val/{name}": value for name, value in scores.items()}

    def state() -> TrainState:
        kept = {"epoch": number, "optimizer": optimizer_state(), "regularizers": objective.state()}
        return kept if averaged is None else kept | {"model": model.state_dict()}

    return Epoch(number, metrics, model if averaged is None else averaged, state, correct, probabilities)


def score(
    model: nn.Module,
    objective: Objective,
    images: ImageBatches,
    config: TrainConfig,
    *,
    logits: list[Tensor] | None = None,
    meter: UsageMeter | None = None,
) -> tuple[dict[str, float], Tensor]:
    """Returns the means over images of the monitors and the accuracy, and whether each image is classified correctly.

    The network is left in evaluation mode.

    Args:
        model: the network.
        objective: its objective; the monitors are those of `Objective.score`.
        images: images to score.
        config: the recipe.
        logits: list to which the logits of every batch are appended; None: they are not collected.
        meter: measures the wait for each batch; None: nothing is measured.

    Returns:
        The means by name, and the flags, (N,) bool on the device.
    """
    model.eval()
    means = Means()
    right: list[Tensor] = []
    # A recipe that splits batches to save memory needs smaller batches here too.
    size = -(-max(256, config.batch_size) // config.accumulate)
    with use_onednn_linear(model), original_network():
        masks: Iterable[Tensor | None] = images.masks_in_order(size) if objective.needs_masks else repeat(None)
        batches: Iterable[Any] = zip(images.in_order(size, workers=config.workers), masks, strict=False)
        for (inputs, labels), mask in batches if meter is None else meter.timed(batches):
            shares = None if mask is None else object_shares(mask)
            answers, monitors = objective.score(inputs, labels, shares)
            means.add({**monitors, "accuracy": accuracy(answers, labels)}, len(labels))
            right.append(answers.argmax(-1) == labels)
            if logits is not None:
                logits.append(answers.detach())
    return means.read(), torch.cat(right)


@torch.inference_mode()
def predict(model: nn.Module, images: ImageBatches, *, batch_size: int = 256) -> Tensor:
    """Returns the class probabilities of images in the order of their ids, (N, C) float32 on the CPU.

    Args:
        model: the network; it is left in evaluation mode.
        images: the images.
        batch_size: images per forward pass.
    """
    model.eval()
    return torch.cat([model(inputs).softmax(-1).float().cpu() for inputs, _ in images.in_order(batch_size)])


def _to_numpy(flags: Tensor) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = flags.cpu().numpy()
    return found


def _to_shares(logits: list[Tensor]) -> NDArray[np.float32]:
    """Returns the class probabilities, (N, C), of the logits of all batches."""
    shares: NDArray[np.float32] = torch.cat(logits).float().softmax(-1).cpu().numpy()
    return shares


def _all_finite(*modules: nn.Module) -> bool:
    """Returns whether all parameters of some modules are finite."""
    weights = [each for module in modules for each in module.parameters()]
    return bool(torch.stack([each.isfinite().all() for each in weights]).all())


class Means:
    """Means over images, summed on the device and read once an epoch, so that no step waits for the device.

    A value is a scalar, or (M,) with one for each member of a stack.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor], count: int) -> None:
        """Adds the means of some images.

        Args:
            values: means by name; with several workers, this worker's terms of these means.
            count: number of images; with several workers, of all of them.
        """
        names = tuple(values)
        term = torch.stack(list(values.values())).double() * count
        self._sums[names] = self._sums[names] + term if names in self._sums else term
        self._count += count

    def read(self, over_workers: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Returns the means over all images by name, for values that are scalars.

        Args:
            over_workers: adds up the sums of all workers; None: there is one worker.
        """
        if not self._sums:
            return {}
        sums = torch.cat(list(self._sums.values()))
        return self._by_name((sums if over_workers is None else over_workers(sums)).tolist())

    def read_members(self) -> list[dict[str, float]]:
        """Returns the means by name for each member of a stack."""
        return [self._by_name(totals) for totals in torch.cat(list(self._sums.values())).mT.tolist()]

    def _by_name(self, totals: list[float]) -> dict[str, float]:
        means: dict[str, float] = {}
        for name, each in zip(chain.from_iterable(self._sums), totals, strict=True):
            means[name] = means.get(name, 0.0) + each / self._count
        return means
