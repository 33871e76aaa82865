"""The plan of a run, made and checked before anything starts: every mistake that can be known is found here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.resources import default_gpus, machine_cpus, machine_gpus
from pipeline.config import Params, load_params
from pipeline.data.sources import Preview
from pipeline.data.splits import read_split
from pipeline.data.store import open_prepared
from pipeline.errors import UserError
from pipeline.models.build import build_model
from pipeline.models.settings import resolve_layers
from pipeline.models.tap import SimilarityTap
from pipeline.ops.identity import fingerprint
from pipeline.ops.source import check_source_unchanged, preview_source
from pipeline.regularizers.settings import warmup_epochs
from pipeline.track.store import Store, prepare_store, resolve_store
from pipeline.train.loop import choose_device
from pipeline.tune.runner import Resources, SearchTask
from pipeline.tune.space import SearchSpace, load_space
from pipeline.workspace import Workspace

LAYERS = "regularizer.spatial_entropy.layers"


@dataclass(frozen=True)
class Plan:
    """What a run will do. weights: number of the network's parameters. grid: (H, W) of patches."""

    workspace: Workspace
    params: Params
    space: SearchSpace
    resources: Resources
    store: Store
    device: str
    source: Preview
    weights: int
    depth: int
    grid: tuple[int, int]

    @property
    def images(self) -> int:
        """How many images the source has, those of every role."""
        return self.source.images

    def describe(self) -> str:
        """The plan in lines for a person."""
        params, resources, search = self.params, self.resources, self.params.search
        side, epochs = params.prepare.image_size, params.train.epochs
        runs = search.trials + len(self.space.controls)
        gpus = f", {resources.gpus:g} GPU" if resources.gpus else ""
        source = self.source
        test = f", {source.test_images:,} of them the set's own test images" if source.test_images is not None else ""
        lines = {
            "dataset": f"{params.set_name}: {source.images:,} images of {side} x {side}, "
            f"{len(source.classes)} classes{test}",
            "model": f"{params.model.name}: {self.weights:,} weights, {self.depth} blocks, "
            f"{self.grid[0]} x {self.grid[1]} patches, on {self.device}",
            "search": f"{search.trials} trials and {len(self.space.controls)} controls "
            f"({', '.join(self.space.controls)}) over {', '.join(self.space.dimensions)}",
            "": f"{runs * epochs} epochs at most ({epochs} a trial), {search.sampler.name} with "
            f"{search.scheduler.name}",
            "together": f"{resources.at_a_time} trials at a time, each {resources.cpus} CPU{gpus}, of "
            f"{resources.machine_cpus} CPUs and {resources.machine_gpus} GPUs here",
            "retrain": f"best and {params.retrain.control}, {params.retrain.seeds} seeds each, {epochs} epochs",
            "results": f"{self.workspace.results} and {self.workspace.models}",
            "state": f"{self.workspace.state} (survives interruptions)",
            "MLflow": f"{self.store.shown}, experiment {params.experiment}, model {params.model_name}",
        }
        return "\n".join(f"{name:<10}{text}" for name, text in lines.items())

    def check_source_unchanged(self) -> None:
        """Refuse to go on from data/prepared if the pictures that it was made from have changed.

        Raises:
            UserError: they have; it says how to prepare anew.
        """
        check_source_unchanged(self.workspace, self.params, self.source)

    def task(self) -> SearchTask:
        """The search of this plan, over the data that have been prepared and split.

        Raises:
            UserError: they have not been, or the split is of other data.
        """
        prepared = open_prepared(self.workspace.prepared)
        split = read_split(self.workspace.split, data_hash=prepared.data_hash)
        name = fingerprint(self.params, self.space.content(), data_hash=prepared.data_hash, split_hash=split.split_hash)
        return SearchTask(
            params=self.params,
            space=self.space,
            fingerprint=name,
            folder=self.workspace.state / "searches" / name[:16],
            prepared=self.workspace.prepared,
            split=self.workspace.split,
            resources=self.resources,
        )


def make_plan(workspace: Workspace) -> Plan:
    """Read and check parameters, space, network, resources, folders and tracking store.

    Raises:
        UserError: the first of these that something is wrong with.
    """
    params = load_params(workspace.params)
    space = load_space(_space_path(workspace, params), params, shown_as=params.search.space)
    if params.retrain.control not in space.controls:
        known = ", ".join(space.controls)
        raise UserError(
            f"params.yaml: retrain.control: given {params.retrain.control!r}; the controls of {space.file}: {known}"
        )
    _check_schedule(params)
    _check_splits(params)
    try:
        device = choose_device(params.base.device)
    except ValueError as error:
        raise UserError(f"params.yaml: {error}") from None
    resources = plan_resources(params)
    source = preview_source(workspace, params)
    side = params.prepare.image_size
    try:
        model = build_model(
            params.model.config(), num_classes=len(source.classes), image_size=(side, side), channels=source.channels
        )
    except ValueError as error:
        raise UserError(f"params.yaml: model: {error}") from None
    depth = len(model.blocks)
    _check_layers(params, space, depth)
    try:
        SimilarityTap(model, "last").remove()
    except ValueError as error:
        raise UserError(f"params.yaml: model.name: {error}. SAR regularises the CLS query's attention.") from None
    workspace.check_writable()
    store = resolve_store(params.tracking.uri, workspace.anchor)
    prepare_store(store)
    rows, columns = model.patch_embed.grid_size
    return Plan(
        workspace=workspace,
        params=params,
        space=space,
        resources=resources,
        store=store,
        device=str(device),
        source=source,
        weights=sum(weights.numel() for weights in model.parameters()),
        depth=depth,
        grid=(rows, columns),
    )


def plan_resources(params: Params) -> Resources:
    """What trials take and how many run at a time on this machine.

    Raises:
        UserError: a trial or a retraining run needs more CPUs or GPUs than there are.
    """
    search, retrain = params.search, params.retrain
    cpus, gpus = machine_cpus(), machine_gpus(params.base.device)
    each = default_gpus(search.gpus_per_trial, gpus)
    for name, asked, there in (
        ("search.cpus_per_trial", search.cpus_per_trial, cpus),
        ("search.gpus_per_trial", each, gpus),
        ("retrain.cpus_per_run", retrain.cpus_per_run, cpus),
        ("retrain.gpus_per_run", default_gpus(retrain.gpus_per_run, gpus), gpus),
    ):
        if asked > there:
            kind = "CPU cores" if "cpus" in name else "GPUs that may be used (see base.device)"
            raise UserError(f"params.yaml: {name}: given {asked:g}, but this machine has {there} {kind}; lower it.")
        if "gpus" in name and asked > 1 and asked != int(asked):
            raise UserError(f"params.yaml: {name}: given {asked:g}; above 1 it must be a whole number of GPUs.")
    fit = cpus // search.cpus_per_trial
    if each:
        fit = min(fit, int(gpus / each + 1e-9))
    return Resources(
        cpus=search.cpus_per_trial,
        gpus=each,
        at_a_time=min(fit, search.max_concurrent_trials or fit),
        machine_cpus=cpus,
        machine_gpus=gpus,
    )


def _space_path(workspace: Workspace, params: Params) -> Path:
    path = workspace.root / params.search.space
    if not path.is_file():
        there = sorted(str(p.relative_to(workspace.root)) for p in (workspace.root / "search_spaces").glob("*.yaml"))
        raise UserError(
            f"params.yaml: search.space: no file {params.search.space}; there are {', '.join(there) or 'none'}"
        )
    return path


def _check_schedule(params: Params) -> None:
    search, epochs = params.search, params.train.epochs
    if params.train.min_lr > params.train.lr:
        raise UserError(f"params.yaml: train.min_lr {params.train.min_lr} is above train.lr {params.train.lr}.")
    if search.scheduler.name == "asha":
        rise = warmup_epochs(epochs)
        if not rise < search.scheduler.grace_period <= epochs:
            raise UserError(
                f"params.yaml: search.scheduler.grace_period: given {search.scheduler.grace_period}; allowed: above "
                f"the regulariser's warm-up ({rise} of {epochs} epochs: before that its weight is still rising, and "
                f"trials differ by chance alone) and at most train.epochs ({epochs}); or search.scheduler.name: none."
            )


def _check_splits(params: Params) -> None:
    split = params.split
    if split.test_fraction + split.val_fraction * (1 - split.test_fraction) > 0.95:
        raise UserError("params.yaml: split.val_fraction and split.test_fraction leave less than 5 % to train on.")


def _check_layers(params: Params, space: SearchSpace, depth: int) -> None:
    """Every way in which layers can be set must exist in a network of this depth, and choices must differ."""
    given: list[tuple[str, Any]] = [(f"params.yaml: {LAYERS}", params.value(LAYERS))]
    given += [
        (f"{space.file}: controls.{name}: {LAYERS}", values[LAYERS])
        for name, values in space.controls.items()
        if LAYERS in values
    ]
    for where, spec in given:
        _resolved(where, spec, depth)
    seen: dict[tuple[int, ...], Any] = {}
    dimension: Mapping[str, Any] = space.dimensions.get(LAYERS, {})
    for spec in dimension.get("choices", []):
        blocks = _resolved(f"{space.file}: {LAYERS}", spec, depth)
        if blocks in seen:
            raise UserError(
                f"{space.file}: {LAYERS}: {seen[blocks]!r} and {spec!r} are the same blocks {list(blocks)} in a "
                f"network of {depth}; leave one out."
            )
        seen[blocks] = spec


def _resolved(where: str, spec: Any, depth: int) -> tuple[int, ...]:
    try:
        return resolve_layers(spec if isinstance(spec, str) else tuple(spec), depth)
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from None
