"""Assembly of a training run from parameters: data on the device, a fresh network, the regularisers.

Trials, retraining runs, evaluations and `sar-search train` all use these functions, so that they cannot differ.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config import Params
from pipeline.data.batches.batches import ImageBatches, Standardisation, standardisation
from pipeline.data.prepared.prepared import Prepared, open_prepared
from pipeline.data.splits.split import Ids, Split, read_split
from pipeline.errors import UserError
from pipeline.files.file_stats import hash_file
from pipeline.models.build import ModelConfig, build_model
from pipeline.models.freeze import freeze
from pipeline.models.model_config import Weights
from pipeline.models.pretrained import AdaptedWeights, adapt_weights
from pipeline.models.source_network import load_source
from pipeline.models.weights import read_weights
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.guide_network import GuideConfig, GuideNetwork
from pipeline.regularizers.registry import build_regularizers
from pipeline.train.checkpoint import load_state, load_weights
from pipeline.train.checkpoint_writer import CheckpointWriter
from pipeline.train.loop import Diverged, Epoch, choose_device, fit, seed_everything
from pipeline.train.rank_info import RankInfo
from pipeline.train.sidecar import Sidecar, TrainState, read_sidecar
from pipeline.train.stacked.stack_speed import STEPS, StackChoice, measure_stack
from pipeline.train.stacked.stacked_loop import check_stacking, fit_stacked
from pipeline.train.usage import UsageMeter

WriteCheckpoint = Callable[[nn.Module | Mapping[str, torch.Tensor], Mapping[str, Any] | None], None]
OnEpoch = Callable[[Epoch, bool, Callable[[], None]], WriteCheckpoint | None]

NO_WEIGHTS: Mapping[str, Weights] = MappingProxyType({})


@dataclass(frozen=True)
class TrainingData:
    """An opened prepared set, its split, and the device of the batches."""

    prepared: Prepared
    split: Split
    device: torch.device
    _scales: dict[str, Standardisation] = field(default_factory=dict, repr=False, compare=False)

    def ids(self, role: str) -> Ids:
        """Returns the ids of a role ("train", "val", "test" or "train+val") in ascending order."""
        return np.sort(np.concatenate([getattr(self.split, part) for part in role.split("+")]))

    def scale(self, role: str) -> Standardisation:
        """Returns the standardisation of a role's images. It is computed once, because an encoded set is decoded
        for it.
        """
        if role not in self._scales:
            self._scales[role] = standardisation(self.prepared.images, self.ids(role))
        return self._scales[role]

    def batches(self, role: str, *, scaled_by: str = "train") -> ImageBatches:
        """Returns the images of a role on the device, standardised like the images of the role `scaled_by`."""
        return ImageBatches(self.prepared, self.ids(role), self.scale(scaled_by), self.device)


@lru_cache(maxsize=2)
def load_data(prepared: Path, split: Path, device: str) -> TrainingData:
    """Opens data and split, once a process.

    Args:
        prepared: Folder of the prepared set.
        split: File of the split.
        device: Device as in `base.device`.

    Raises:
        UserError: data or split are missing or invalid, or there is no such device.
    """
    opened = open_prepared(prepared)
    try:
        return TrainingData(opened, read_split(split, data_hash=opened.data_hash), choose_device(device))
    except ValueError as error:
        raise UserError(str(error)) from None


@dataclass(frozen=True)
class TrainingRun:
    """A run before its training.

    Attributes:
        model: Fresh network on its device.
        regularizers: Regularisers of the configuration, by name.
        sidecar: Description of the network, for its checkpoints.
    """

    model: nn.Module
    regularizers: Mapping[str, Regularizer]
    sidecar: Sidecar


def build_run(
    params: Params,
    data: TrainingData,
    *,
    seed: int,
    scaled_by: str = "train",
    weights: Mapping[str, Weights] = NO_WEIGHTS,
    fresh_guide: bool = False,
) -> TrainingRun:
    """Builds the network and the regularisers of a configuration.

    Args:
        params: The configuration.
        data: The data.
        seed: Seed of the random initial weights, which pretrained weights replace where there are any.
        scaled_by: Role whose images give the standardisation.
        weights: Pretrained weights by specification, as they were resolved when the search began, and the guide of
            locality guidance by `guide_spec`.
        fresh_guide: Whether the guide is untrained, to measure the cost of a run.

    Raises:
        UserError: the network or a regulariser cannot be built, or its weights have changed since they were resolved.
    """
    prepared, config = data.prepared, params.model.config()
    scale = data.scale(scaled_by)
    model = build_network(params, data, seed=seed, weights=weights)
    try:
        freeze(model, params.model.freeze)
    except ValueError as error:
        raise UserError(f"model.{error}") from None
    sidecar: Sidecar = {
        "model": asdict(config),
        "num_classes": len(prepared.classes),
        "image_size": list(prepared.image_size),
        "channels": prepared.channels,
        "classes": list(prepared.classes),
        "mean": list(scale.mean),
        "std": list(scale.std),
        "data_hash": prepared.data_hash,
        "split_hash": data.split.split_hash,
        "seed": seed,
    }
    if "bit_depth" in prepared.manifest:
        sidecar["bit_depth"] = prepared.manifest["bit_depth"]
    if params.model.pretrained is not None:
        source = weights[params.model.pretrained]
        sidecar["pretrained"] = {"spec": source.spec, "resolved": source.resolved, "sha256": source.sha256}
    guide = None
    if params.regularizer.uses_guide:
        spec = None if fresh_guide else guide_spec(params, data, scaled_by)
        guide = _guide(params, data, spec, weights)
        if spec is not None:
            sidecar["guide"] = {"spec": spec, "sha256": weights[spec].sha256}
    return TrainingRun(model.to(data.device), regularizers_from_params(params, weights, guide=guide), sidecar)


def guide_config(params: Params) -> GuideConfig:
    """Returns the configuration of locality guidance's guide, which all trials and seeds share.

    Args:
        params: Parameters of the search.
    """
    section = params.regularizer.locality_guidance
    return GuideConfig(section.guide_depth, section.guide_epochs, params.train.flip, params.base.seed)


def guide_spec(params: Params, data: TrainingData, role: str) -> str:
    """Returns the specification under which a guide is among the weights of a run.

    Args:
        params: Parameters of the search.
        data: The data.
        role: Role on whose images the guide is trained.
    """
    return guide_config(params).spec(data_hash=data.prepared.data_hash, split_hash=data.split.split_hash, role=role)


def make_guide(params: Params, prepared: Prepared) -> GuideNetwork:
    """Returns an untrained guide.

    Args:
        params: Parameters of the search.
        prepared: Prepared set, whose classes and channels the guide has.
    """
    depth = guide_config(params).depth
    return GuideNetwork(depth, num_classes=len(prepared.classes), channels=prepared.channels)


def _guide(params: Params, data: TrainingData, spec: str | None, weights: Mapping[str, Weights]) -> GuideNetwork:
    """Returns a guide.

    Args:
        params: Parameters of the search.
        data: The data.
        spec: Specification of a trained guide; None for an untrained one.
        weights: Weights by specification.

    Raises:
        UserError: the guide's weights cannot be read or have changed.
    """
    with torch.random.fork_rng(devices=[]):
        network = make_guide(params, data.prepared)
    if spec is not None:
        try:
            network.load_state_dict(_tensors_of(spec, weights))
        except ValueError as error:
            raise UserError(f"regularizer.locality_guidance: its guide: {error}") from None
    return network


def build_network(
    params: Params, data: TrainingData, *, seed: int, weights: Mapping[str, Weights] = NO_WEIGHTS
) -> nn.Module:
    """Builds the network of a configuration on the CPU, with its initial weights.

    Args:
        params: The configuration.
        data: The data.
        seed: Seed of the random initial weights, which pretrained weights replace where there are any.
        weights: Pretrained weights by specification.

    Raises:
        UserError: the network cannot be built, or its weights cannot be read or have changed.
    """
    prepared = data.prepared
    seed_everything(seed)
    try:
        model: nn.Module = build_model(
            params.model.config(),
            num_classes=len(prepared.classes),
            image_size=prepared.image_size,
            channels=prepared.channels,
        )
    except ValueError as error:
        raise UserError(f"model.{error}") from None
    if (began := fit_pretrained(model, params, weights)) is not None:
        began.load(model)
    return model


def train_run(
    run: TrainingRun,
    params: Params,
    data: TrainingData,
    *,
    seed: int,
    resume: TrainState | None = None,
    role: str = "train",
    world: RankInfo | None = None,
) -> Iterator[Epoch]:
    """Trains a run (`pipeline.train.loop.fit`), and measures its use of the machine if `tracking.system_metrics` is
    set.

    Args:
        run: The run.
        params: Its configuration.
        data: The data.
        seed: Seed of batches and augmentation.
        resume: Training state to resume from; None to begin.
        role: Role of the training images. With "train", the network is scored on "val" after every epoch, as in a
            trial.
        world: Rank of this process among the run's workers; None without other workers.

    Yields:
        Each epoch, after it has ended.
    """
    return fit(
        run.model,
        data.batches(role, scaled_by=role),
        params.train.config(),
        val=data.batches("val") if role == "train" else None,
        regularizers=run.regularizers,
        seed=seed,
        resume=resume,
        world=world,
        meter=UsageMeter(data.device) if params.tracking.system_metrics else None,
    )


def load_resume_state(run: TrainingRun, folder: Path) -> TrainState:
    """Loads the weights of a checkpoint into a run, and returns the training state from which `train_run` resumes.

    Args:
        run: The run.
        folder: Folder of the checkpoint.
    """
    load_weights(folder, run.model)
    return load_state(folder)


def train_resumable(
    run: TrainingRun,
    params: Params,
    data: TrainingData,
    on_epoch: OnEpoch,
    *,
    seed: int,
    resume: TrainState | None,
    decisive: Container[int] = (),
    stored: Container[int] = (),
    last_with_state: bool = True,
    role: str = "train",
    world: RankInfo | None = None,
) -> None:
    """Trains to the last epoch and writes checkpoints, in the background if that is worth a thread.

    Args:
        run: The run.
        params: Its configuration.
        data: The data.
        on_epoch: Called after each epoch with the epoch, whether a checkpoint is due, and a function that waits for
            the previous checkpoint. Returns a function that writes a checkpoint from weights and training state, or
            None to write none.
        seed: Seed of batches and augmentation.
        resume: Training state to resume from; None to begin.
        decisive: Epochs whose checkpoint must be written before the next epoch is trained. The last epoch always is.
        stored: Epochs that need a checkpoint, whatever search.checkpoint_every is.
        last_with_state: Whether the last checkpoint includes a training state.
        role: Role of the training images.
        world: Rank of this process among the run's workers; None without other workers.
    """
    with CheckpointWriter() as writer:
        for epoch in train_run(run, params, data, seed=seed, resume=resume, role=role, world=world):
            last = epoch.number == params.train.epochs
            _save_epoch(
                epoch,
                params,
                on_epoch,
                writer,
                due=epoch.number in stored,
                blocking=epoch.number in decisive,
                with_state=last_with_state or not last,
            )


def train_stack(
    runs: Sequence[TrainingRun],
    params: Params,
    data: TrainingData,
    *,
    seeds: Sequence[int],
    resume: Sequence[TrainState] | None,
    role: str = "train",
) -> Iterator[dict[int, Epoch | Diverged]]:
    """Trains runs of one configuration together, as `train_run` trains each alone (`fit_stacked`).

    Args:
        runs: The runs.
        params: Their configuration.
        data: The data.
        seeds: Each run's seed of batches and augmentation.
        resume: Each run's training state to resume from, all after the same epoch; None to begin.
        role: As for `train_run`.

    Yields:
        After each epoch, by the index of the run, the epoch or how the run diverged.

    Raises:
        CannotStack: The runs cannot be trained together.
    """
    return fit_stacked(
        [run.model for run in runs],
        data.batches(role, scaled_by=role),
        params.train.config(),
        seeds=seeds,
        val=data.batches("val") if role == "train" else None,
        regularizers=[run.regularizers for run in runs],
        resume=resume,
        meter=UsageMeter(data.device) if params.tracking.system_metrics else None,
    )


def choose_stack_size(
    params: Params,
    data: TrainingData,
    *,
    most: int,
    measured: bool,
    role: str = "train",
    weights: Mapping[str, Weights] = NO_WEIGHTS,
) -> StackChoice:
    """Returns how many runs of a configuration this worker trains together.

    Args:
        params: The configuration.
        data: The data.
        most: Largest number of runs.
        measured: Whether the fastest number is measured; otherwise `most` is taken.
        role: Role of the training images.
        weights: Pretrained weights by specification.

    Raises:
        CannotStack: The runs cannot be trained together.
    """
    config, ids = params.train.config(), data.ids(role)

    def build(seed: int) -> tuple[nn.Module, Mapping[str, Regularizer]]:
        run = build_run(params, data, seed=seed, scaled_by=role, weights=weights)
        return run.model, run.regularizers

    if not measured:
        model, methods = build(0)
        check_stacking([model], config, [methods])
        return StackChoice(most)
    images = ImageBatches(data.prepared, ids[: STEPS * config.batch_size], data.scale(role), data.device)
    steps = config.epochs * -(-len(ids) // config.batch_size)
    return measure_stack(build, images, config, most=most, steps=steps)


def train_stacked_resumable(
    runs: Sequence[TrainingRun],
    params: Params,
    data: TrainingData,
    on_epoch: Sequence[OnEpoch],
    *,
    seeds: Sequence[int],
    resume: Sequence[TrainState] | None,
    role: str = "train",
) -> dict[int, Diverged]:
    """Trains runs of one configuration together to the last epoch, and writes each run's checkpoints.

    The last checkpoint has no training state.

    Args:
        runs: The runs.
        params: Their configuration.
        data: The data.
        on_epoch: For each run the function that `train_resumable` calls.
        seeds: Each run's seed of batches and augmentation.
        resume: Each run's training state to resume from, all after the same epoch; None to begin.
        role: As for `train_run`.

    Returns:
        By the index of the run, how it diverged; runs that reached the last epoch are left out.

    Raises:
        CannotStack: The runs cannot be trained together.
    """
    diverged: dict[int, Diverged] = {}
    with ExitStack() as opened:
        writers = [opened.enter_context(CheckpointWriter()) for _ in runs]
        for ended in train_stack(runs, params, data, seeds=seeds, resume=resume, role=role):
            for index, epoch in ended.items():
                if isinstance(epoch, Diverged):
                    diverged[index] = epoch
                    continue
                with_state = epoch.number < params.train.epochs
                _save_epoch(epoch, params, on_epoch[index], writers[index], with_state=with_state)
    return diverged


def _save_epoch(
    epoch: Epoch,
    params: Params,
    on_epoch: OnEpoch,
    writer: CheckpointWriter,
    *,
    due: bool = False,
    blocking: bool = False,
    with_state: bool,
) -> None:
    """Calls `on_epoch`, and saves the checkpoint for which it returns a function.

    Args:
        epoch: The epoch that has ended.
        params: The configuration.
        on_epoch: As for `train_resumable`.
        writer: Writes the checkpoints of the epoch's run.
        due: Whether a checkpoint is due, whatever search.checkpoint_every is. After the last epoch it always is.
        blocking: Whether the checkpoint must be written when this returns. The last one always is.
        with_state: Whether the checkpoint includes a training state.
    """
    last = epoch.number == params.train.epochs
    due = due or last or epoch.number % params.search.checkpoint_every == 0
    if (write := on_epoch(epoch, due, writer.wait)) is not None:
        state, seconds = epoch.state() if with_state else None, epoch.metrics["seconds"]
        writer.save(write, epoch.model, state, epoch_seconds=seconds, blocking=last or blocking)


def fit_pretrained(model: nn.Module, params: Params, weights: Mapping[str, Weights]) -> AdaptedWeights | None:
    """Returns the initial weights of a configuration's network, adapted to it; None if they are all random.

    Args:
        model: Network of `params`, which may be on the meta device.
        params: The configuration.
        weights: Pretrained weights by specification.

    Raises:
        UserError: the weights cannot be read, have changed since they were resolved, or belong to another network.
    """
    spec = params.model.pretrained
    if spec is None:
        return None
    try:
        return adapt_weights(model, _tensors_of(spec, weights))
    except ValueError as error:
        raise UserError(f"model.pretrained: {spec}: {error}") from None


def regularizers_from_params(
    params: Params,
    weights: Mapping[str, Weights] = NO_WEIGHTS,
    *,
    guide: GuideNetwork | None = None,
) -> dict[str, Regularizer]:
    """Returns the methods of a configuration that have a weight or are watched, by name.

    Args:
        params: The configuration.
        weights: Pretrained weights by specification.
        guide: Guide of locality guidance; None without it.

    Raises:
        UserError: a method cannot be built with its configuration.
    """

    try:
        return build_regularizers(
            params.regularizer.configs(), load_source=lambda spec: load_frozen(spec, params, weights), guide=guide
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def load_frozen(spec: str, params: Params, weights: Mapping[str, Weights]) -> nn.Module:
    """Returns the network that weights were made with, on the CPU, such as guided transfer's source.

    Args:
        spec: Specification of the weights.
        params: The configuration.
        weights: Pretrained weights by specification.

    Raises:
        ValueError: the weights cannot be read, have changed since they were resolved, or belong to another network.
    """
    tensors, side = _tensors_of(spec, weights), params.prepare.image_size
    network: nn.Module = load_source(weights[spec], tensors, params.model.config(), (side, side))
    return network


def _tensors_of(spec: str, weights: Mapping[str, Weights]) -> dict[str, torch.Tensor]:
    """Reads the weights of a specification.

    Raises:
        ValueError: the specification was not resolved, or its file has changed since or cannot be read.
    """
    found = weights.get(spec)
    if found is None:
        raise ValueError("was not looked up when this command began; run `sar-search check`")
    try:
        stat = Path(found.path).stat()
    except OSError as error:
        raise ValueError(f"{found.path} is gone ({error.strerror})") from None
    return _read_checked(found.path, found.sha256, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _read_checked(path: str, sha256: str, changed_ns: int, size: int) -> dict[str, torch.Tensor]:
    """Reads a file of weights after checking its hash. The result is cached, because trials follow each other in a
    process.

    Args:
        path: The file.
        sha256: Expected SHA-256.
        changed_ns: Time of change, as a part of the cache's key.
        size: Size in bytes, as a part of the cache's key.

    Raises:
        ValueError: the file has another hash, or cannot be read.
    """
    if (now := hash_file(Path(path))) != sha256:
        raise ValueError(f"{path} has changed since its hash was recorded (sha256 {sha256[:8]} then, {now[:8]} now)")
    return read_weights(Path(path))


def load_trained(folder: Path, device: torch.device) -> tuple[nn.Module, Sidecar]:
    """Returns the network of a checkpoint, on a device and in evaluation mode, and the checkpoint's sidecar.

    Args:
        folder: Folder of the checkpoint.
        device: Device of the network.

    Raises:
        UserError: the checkpoint is missing or invalid.
    """
    sidecar = read_sidecar(folder)
    height, width = sidecar["image_size"]
    model = build_model(
        ModelConfig(**sidecar["model"]),
        num_classes=sidecar["num_classes"],
        image_size=(height, width),
        channels=sidecar["channels"],
    )
    load_weights(folder, model)
    return model.to(device).eval(), sidecar
