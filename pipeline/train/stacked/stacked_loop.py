"""The training loop of a stack: `fit_stacked` trains several networks of one configuration, each with its own seed.

Each member's run is the run that `fit` gives it alone, but for rounding: it has its own order of the images,
augmentation, mixing and random draws inside the network, and its own gradient, clipped by its own norm. Its checkpoints
are those of a run alone, so either kind of run resumes the other. A member that diverges ends, and the others go on.
"""

import copy
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.data.batches.batches import ImageBatches
from pipeline.models.freeze import enter_training
from pipeline.models.stacked_network import (
    CannotStack,
    check_stackable,
    release_parameters,
    share_parameters,
    stack_networks,
    streams_of_stack,
)
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.registry import METHODS
from pipeline.train.checkpoint import copy_tensors
from pipeline.train.class_weights import weights_by_label
from pipeline.train.cpu.onednn_linear import use_onednn_linear
from pipeline.train.ema import make_average
from pipeline.train.loader import TrainLoader, check_masks
from pipeline.train.loop import Diverged, Epoch, Means, end_epoch, mixed_seed
from pipeline.train.memory import raise_gc_threshold, retain_freed_memory
from pipeline.train.objective import Objective
from pipeline.train.optim import learning_rate, make_schedule
from pipeline.train.sidecar import TrainState
from pipeline.train.stacked.stacked_objective import StackedObjective
from pipeline.train.stacked.stacked_optimizer import ELEMENTWISE, StackedOptimizer
from pipeline.train.step import take_step
from pipeline.train.train_config import TrainConfig
from pipeline.train.usage import UsageMeter

Batch = tuple[Tensor, Tensor, Tensor | None]


def fit_stacked(
    models: Sequence[nn.Module],
    train: ImageBatches,
    config: TrainConfig,
    *,
    seeds: Sequence[int],
    val: ImageBatches | None = None,
    regularizers: Sequence[Mapping[str, Regularizer]] | None = None,
    resume: Sequence[TrainState] | None = None,
    meter: UsageMeter | None = None,
) -> Iterator[dict[int, Epoch | Diverged]]:
    """Trains networks of one configuration together and yields, after every epoch, what became of each.

    The epochs are those of `fit`, with the same metrics. `seconds` is a member's share of the epoch's duration, so that
    the seconds of all members add up to the time that they took. The use of the machine is that of all together.

    While the generator runs, the networks' parameters are views of the stack's. Afterwards they are their own again.
    torch.compile is not used.

    Args:
        models: the networks, of one configuration, on the same device as the images.
        train: training images.
        config: the recipe.
        seeds: each network's seed, as that of `fit`.
        val: images that are scored after every epoch; None: no scoring.
        regularizers: each network's own methods by name, of equal configurations; None: none.
        resume: for each network, the state from which `fit` would resume it, all after the same epoch; None: new runs.
        meter: measures each epoch's use of the machine; None: nothing is measured.

    Yields:
        By the index of the network its epoch, or `Diverged` if its training ended so. Networks that diverged in an
        earlier epoch are left out.

    Raises:
        CannotStack: the networks cannot be trained together. Nothing has been trained then.
        ValueError: the network or the data lack something that a regulariser or the recipe needs.
    """
    methods = [{} for _ in models] if regularizers is None else [dict(each) for each in regularizers]
    check_stacking(models, config, methods)
    going, states = list(range(len(models))), resume
    while going:
        lost = False
        together = _fit_together(
            [models[index] for index in going],
            train,
            config,
            seeds=[seeds[index] for index in going],
            val=val,
            methods=[methods[index] for index in going],
            resume=states,
            meter=meter,
        )
        with closing(together):
            for ended in together:
                found = dict(zip(going, ended, strict=True))
                yield found
                kept = {index: epoch for index, epoch in found.items() if isinstance(epoch, Epoch)}
                if lost := len(kept) < len(found):
                    # The others go on as a smaller stack, as if they had been killed and resumed.
                    going, states = list(kept), [epoch.state() for epoch in kept.values()]
                    for index, epoch in kept.items():
                        models[index].load_state_dict(epoch.model.state_dict())
                    break
        if not lost:
            return


def check_stacking(
    models: Sequence[nn.Module], config: TrainConfig, methods: Sequence[Mapping[str, Regularizer]]
) -> None:
    """Checks that networks can be trained together by a recipe.

    Args:
        models: the networks.
        config: the recipe.
        methods: each network's methods by name.

    Raises:
        CannotStack: they cannot.
    """
    if config.grad_checkpointing:
        raise CannotStack("train.grad_checkpointing runs blocks again, which would draw other random numbers")
    if config.compile == "always":
        raise CannotStack("train.compile is always, and a stack is not compiled")
    if config.optimizer not in ELEMENTWISE:
        raise CannotStack(f"a step of {config.optimizer} depends on the norms of whole tensors")
    for name, method in (pair for each in methods for pair in each.items()):
        if type(method) not in METHODS.values():  # a user's own may look at the network as a whole
            raise CannotStack(f"regularizer.{name} is a {type(method).__name__}, which is not one of this package")
    for model in models:
        check_stackable(model)
        if _described(model) != _described(models[0]):
            raise CannotStack("the networks differ in their parameters")


def _described(model: nn.Module) -> dict[str, tuple[object, ...]]:
    return {
        name: (weight.shape, weight.dtype, weight.device, weight.requires_grad)
        for name, weight in model.named_parameters()
    }


def _fit_together(
    models: Sequence[nn.Module],
    train: ImageBatches,
    config: TrainConfig,
    *,
    seeds: Sequence[int],
    val: ImageBatches | None,
    methods: Sequence[Mapping[str, Regularizer]],
    resume: Sequence[TrainState] | None,
    meter: UsageMeter | None,
) -> Generator[list[Epoch | Diverged], None, None]:
    """Trains networks as one stack, and yields after every epoch what became of each.

    Args:
        models: the networks.
        train: training images.
        config: the recipe.
        seeds: each network's seed.
        val: images that are scored after every epoch; None: no scoring.
        methods: each network's methods by name.
        resume: for each network the state from which it resumes; None: new runs.
        meter: measures each epoch's use of the machine; None: nothing is measured.

    Raises:
        CannotStack: the networks cannot be trained together.
        ValueError: as in `fit_stacked`.
    """
    retain_freed_memory()
    raise_gc_threshold()
    steps = -(-len(train) // config.batch_size)
    check_masks(methods[0], train)
    masked = any(method.needs.masks and method.weight for method in methods[0].values())
    loaders = [
        TrainLoader(train, config, model=model, seed=seed, masks=masked)
        for model, seed in zip(models, seeds, strict=True)
    ]
    class_weights = weights_by_label(config, train.labels, train.classes)
    with ExitStack() as opened:
        stack = stack_networks(models)
        opened.callback(release_parameters, models)
        average = make_average(stack, config)  # it starts from the weights that the caller loaded
        averages: list[nn.Module | None] = [None] * len(models)
        if average is not None:
            copies = [copy.deepcopy(model).eval() for model in models]
            share_parameters(average.model, copies)
            opened.callback(release_parameters, copies)
            averages[:] = copies
        for model, state in zip(models, resume or (), strict=resume is not None):
            if "model" in state:
                model.load_state_dict(state["model"])
        if meter is not None:
            opened.enter_context(meter)
        objectives = [
            opened.enter_context(
                Objective(
                    model,
                    own,
                    planned_epochs=config.epochs,
                    label_smoothing=config.label_smoothing,
                    class_weights=class_weights,
                    seed=seed,
                )
            )
            for model, own, seed in zip(models, methods, seeds, strict=True)
        ]
        objective = opened.enter_context(StackedObjective(stack, objectives))
        optimizer = StackedOptimizer(stack, models, [each.trainable for each in objectives], config)
        opened.enter_context(use_onednn_linear(stack))
        schedule = make_schedule(optimizer.optimizer, config, steps)
        first = 0
        if resume is not None:
            first = _load_states(resume, optimizer, objectives)
        streams = streams_of_stack(stack)
        for epoch in range(first, config.epochs):
            started = time.perf_counter()
            batches = _stacked_batches([loader.with_masks(epoch) for loader in loaders])
            if meter is not None:
                meter.begin()
                batches = meter.timed(batches)
            streams.seed([mixed_seed(seed, epoch) for seed in seeds])
            enter_training(stack)
            means = Means()
            for step, (inputs, labels, masks) in enumerate(batches, start=epoch * steps):
                schedule.step_update(step)
                monitors = take_step(
                    stack,
                    objective,
                    optimizer.optimizer,
                    inputs,
                    labels,
                    masks,
                    epoch=epoch,
                    config=config,
                    clip=optimizer.clip,
                    dim=1,
                )
                if average is not None:
                    average.update(stack, step + 1)
                means.add(monitors, labels.shape[1])
            ended: list[Epoch | Diverged] = []
            for index, found in enumerate(means.read_members()):
                try:
                    with streams.of_member(index):  # some monitors draw
                        own = end_epoch(
                            models[index],
                            objectives[index],
                            found,
                            config,
                            number=epoch + 1,
                            rate=learning_rate(optimizer.optimizer),
                            val=val,
                            averaged=averages[index],
                            optimizer_state=partial(optimizer.state_of, index),
                            meter=meter,
                        )
                except Diverged as error:
                    ended.append(error)
                else:
                    ended.append(own)
            usage = {} if meter is None else meter.read()
            share = {"seconds": (time.perf_counter() - started) / len(models)}
            yield [
                each
                if isinstance(each, Diverged)
                # A stored view would bring all members' values along.
                else replace(each, metrics={**each.metrics, **share}, usage=usage, state=partial(_copied_state, each))
                for each in ended
            ]


def _copied_state(epoch: Epoch) -> TrainState:
    """Returns an epoch's training state with tensors of its own."""
    state: TrainState = copy_tensors(epoch.state())
    return state


def _load_states(resume: Sequence[TrainState], optimizer: StackedOptimizer, objectives: Sequence[Objective]) -> int:
    """Loads the members' training states, and returns the number of epochs that they have been trained.

    Args:
        resume: the state of each member.
        optimizer: the stack's optimizer.
        objectives: the members' objectives.

    Raises:
        CannotStack: the states are of different epochs.
    """
    done = {int(state["epoch"]) for state in resume}
    if len(done) > 1:
        raise CannotStack(f"the checkpoints are of different epochs ({', '.join(map(str, sorted(done)))})")
    for objective, state in zip(objectives, resume, strict=True):
        objective.load_state(state.get("regularizers", {}))
    optimizer.load_states([state["optimizer"] for state in resume])
    return done.pop()


def _stacked_batches(loaders: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """Yields the members' batches of a step as one: inputs (M, B, C, H, W), labels (M, B) or (M, B, K), and masks."""
    for batches in zip(*loaders, strict=True):
        inputs, labels, masks = zip(*batches, strict=True)
        yield torch.stack(inputs), torch.stack(labels), None if masks[0] is None else torch.stack(masks)
