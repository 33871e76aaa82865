"""The plan of a run, checked before anything starts, so that every mistake that can be found early is found here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from pipeline.config import Content, Params, part_params
from pipeline.console.format import format_count
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.sources.image_source import Preview
from pipeline.data.splits.split import Split, read_split
from pipeline.errors import UserError, quote_name
from pipeline.inputs.choice_metric import MIN_MASKED, explain_choice, resolve_choice
from pipeline.inputs.data_split import check_folds, compute_split
from pipeline.inputs.guides import describe_guide
from pipeline.inputs.procedure import Part, name_part, read_parts
from pipeline.inputs.resolved_weights import resolve_weights
from pipeline.inputs.source import check_source_unchanged, manifest_if_current, preview_source
from pipeline.models.model_config import Weights
from pipeline.preflight.class_balance import check_class_weights, describe_balance
from pipeline.preflight.dry_run import Network, check_networks, check_regularizers, describe_freezing
from pipeline.preflight.metric_check import check_metric
from pipeline.preflight.power import check_seeds
from pipeline.preflight.prior_results import load_prior_results
from pipeline.preflight.run_resources import trial_resources
from pipeline.preflight.search_budget import (
    check_checkpoints,
    describe_budget,
    describe_rungs,
    describe_trials,
    max_epochs,
    read_parameters,
)
from pipeline.preflight.validate import (
    check_masks,
    check_mixing,
    check_model_name,
    check_probe,
    check_rates,
    check_shares,
    check_sizes,
    check_splits,
    check_training_masks,
    check_warm_start,
    describe_probe_plan,
)
from pipeline.provenance.code_hash import code_hashes
from pipeline.provenance.fingerprint import fingerprint_content
from pipeline.provenance.trace import versions
from pipeline.provenance.weights_record import describe_weights, to_json, write_note
from pipeline.regularizers.plugin import plugin_hashes
from pipeline.state.current_search import current_search
from pipeline.state.searches import search_directory
from pipeline.tracking.permissions import require_access
from pipeline.tracking.store import Store, prepare_store, resolve_store
from pipeline.train.compilation import lacks_compiler
from pipeline.train.loop import choose_device
from pipeline.tune.journal.records import METHOD, VAL_ACCURACY, Header
from pipeline.tune.objectives.objective_words import objective_words
from pipeline.tune.objectives.objectives import (
    USER_METRIC,
    check_objectives,
    describe_objectives,
    objectives_from_params,
)
from pipeline.tune.run_counts import max_confirmation_runs, max_runs, requested_trials
from pipeline.tune.selection.choice import describe_rule
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.samplers import check_sampler
from pipeline.tune.study.studies import num_studies
from pipeline.tune.study.warm_start import PriorResult, check_points
from pipeline.tune.task import Resources, SearchTask
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Plan:
    """Plan of a run.

    Attributes:
        workspace: The checkout.
        params: All parameters; for a part of the procedure with the part's seed.
        space: The search space.
        resources: Resources of the trials.
        store: The tracking store.
        device: Name of torch's device.
        source: The image source.
        network: The network of params.yaml.
        pretrained: Resolved pretrained weights, by specification.
        freezing: What part of the network is trained, in words; empty if all of it is.
        prior_results: Results from which the sampler learns before the first trial.
        part: Part of the procedure to which the search belongs; None before the data are split.
    """

    workspace: Workspace
    params: Params
    space: SearchSpace
    resources: Resources
    store: Store
    device: str
    source: Preview
    network: Network
    pretrained: Mapping[str, Weights] = field(default_factory=dict)
    freezing: tuple[str, ...] = ()
    prior_results: tuple[PriorResult, ...] = ()
    part: Part | None = None

    @property
    def images(self) -> int:
        """Number of the source's images, of all roles."""
        return self.source.images

    @property
    def test_images(self) -> int:
        """Number of test images, of all folds together; rounding within classes may change it slightly."""
        own, evaluate = self.source.test_images, self.params.evaluate
        if evaluate.folds is not None:
            return round(self.images * (1 - evaluate.holdout))
        return round(self.images * self.params.split.test_fraction) if own is None else own

    def for_part(self, part: Part) -> "Plan":
        """Returns the same plan for one of the procedure's searches."""
        return replace(self, params=part.params, part=part)

    def describe(self) -> str:
        """Returns the plan as lines of text."""
        params, resources, search = self.params, self.resources, self.params.search
        side, epochs = params.prepare.image_size, params.train.epochs
        gpus = f", {resources.gpus:g} GPU" if resources.gpus else ""
        source, architecture = self.source, self.network.architecture
        test = f", {source.test_images:,} of them the set's own test images" if source.test_images is not None else ""
        objects = f", {source.objects}" if source.objects else ""
        controls = f"{len(self.space.controls)} control{'s' * (len(self.space.controls) != 1)}"
        lines = {
            "dataset": f"{params.set_name}: {source.images:,} images of {side} x {side}, "
            f"{len(source.classes)} classes{test}{objects}",
            "model": f"{params.model.name}: {self.network.num_parameters:,} parameters, "
            f"{architecture.blocks} blocks, {architecture.grid[0]} x {architecture.grid[1]} patches, on {self.device}",
            "search": f"{describe_trials(params, self.space)} and {controls} ({', '.join(self.space.controls)}) over "
            f"{', '.join(self.space.dimensions)}",
            "": f"{max_epochs(params, self.space)} epochs at most ({epochs} a trial in full), {search.sampler.name} "
            f"with {search.scheduler.name}{describe_rungs(params, self.space)}{self._describe_prior_results()}",
            **describe_objectives(params),
            "confirm": self._describe_confirmation(),
            "choose": self._describe_choice(),
            "budget": describe_budget(params, self.space),
            **describe_guide(params, self.space),
            "together": f"{resources.max_concurrent} trials at a time, each {resources.cpus} CPU{gpus}, of "
            f"{resources.machine_cpus} CPUs and {resources.machine_gpus} GPUs {self._describe_place()}",
            "retrain": f"best and {params.retrain.control}, {self._describe_seeds()} seeds each, {epochs} epochs"
            f"{self._describe_workers()}",
            **describe_probe_plan(params),
            "results": f"{self.workspace.results} and {self.workspace.models}",
            "state": f"{self.workspace.state} (survives interruptions)",
            "MLflow": f"{self.store.shown}, experiment {params.experiment}, model {params.model_name}",
        }
        words = describe_weights(self.pretrained, params.model.pretrained, self.network.notes)
        listed = list(lines.items())
        listed[2:2] = [("" if number else "weights", text) for number, text in enumerate(words)]
        listed[2:2] = [("", line) for line in self.freezing]
        listed[1:1] = [
            ("", note) for note in (*source.notes, *source.doubts, *describe_balance(params, self.space, source))
        ]
        listed = [*self._describe_folds().items(), *listed]
        return "\n".join(f"{name:<9} {text}" for name, text in listed)

    def _describe_folds(self) -> dict[str, str]:
        """Returns the size of the procedure that the folds ask for, in words; empty without folds."""
        evaluate, epochs = self.params.evaluate, self.params.train.epochs
        if (folds := evaluate.folds) is None:
            return {}
        most = max_epochs(self.params, self.space)
        runs = max_runs(self.params, self.space)
        least, seeds = (2 * folds * count + 1 for count in self.params.retrain.seed_bounds)
        retraining = f"{least} to {seeds}" if least < seeds else f"{seeds}"
        return {
            "folds": f"{folds}: {folds + 1} searches, on all images and outside each fold, with {(folds + 1) * runs:,} "
            f"runs and {(folds + 1) * most:,} epochs at most (search.budget applies to each); then {retraining} "
            f"retraining runs, {seeds * epochs:,} epochs{'' if least == seeds else ' at most'}: best and "
            f"{self.params.retrain.control} in each fold, and the network to be registered, on all images",
            "tested": f"all {self.test_images:,} images, each by networks of the other folds"
            + (f"; {self.images - self.test_images:,} are kept apart for the registered one" * bool(evaluate.holdout)),
        }

    def _describe_place(self) -> str:
        resources = self.resources
        return "here" if resources.address is None else f"on {resources.nodes} nodes of {quote_name(resources.address)}"

    def _describe_seeds(self) -> str:
        retrain = self.params.retrain
        least, most = retrain.seed_bounds
        return f"{least} to {most} (retrain.seeds: {retrain.seeds})" if least < most else str(most)

    def _describe_workers(self) -> str:
        workers = self.params.retrain.workers_per_run
        return f", {workers} workers a run" if workers > 1 else ""

    def _describe_prior_results(self) -> str:
        search = self.params.search
        points = f"; first {', '.join(search.points)}" if search.points else ""
        known = (
            f"; warm start with {len(self.prior_results)} results of {search.warm_start}" if self.prior_results else ""
        )
        return points + known

    def _describe_choice(self) -> str:
        """Returns the rule of the choice: the one that holds, once the data are prepared."""
        try:
            if manifest_if_current(self.workspace, self.params) is not None:
                prepared = open_prepared(self.workspace.prepared)
                val = compute_split(self.workspace, self.params, prepared).val
                why = explain_choice(self.params, prepared, val)
                return describe_rule(resolve_choice(self.params, prepared, val), why=why)
        except UserError:
            pass  # the stages report what is wrong with the data
        when = f"if at least {MIN_MASKED} validation images have a mask with object and background"
        return describe_rule(self.params, when=when)

    def _describe_confirmation(self) -> str:
        search = self.params.search
        if not max_confirmation_runs(self.params, self.space):
            return "nothing with further seeds (search.confirm.seeds: 0)"
        trials = requested_trials(self.params, self.space)[METHOD]
        tuned = " of each study" if num_studies(self.params, self.space) == 2 else ""
        return (
            f"up to {format_count(min(search.confirm.top, trials), 'configuration')}{tuned}, and the controls, with "
            f"further seeds: at most {format_count(max_confirmation_runs(self.params, self.space), 'run')}"
        )

    def check_source_unchanged(self) -> None:
        """Checks that the images from which data/prepared was made have not changed since.

        Raises:
            UserError: They have changed; the message says how to prepare them again.
        """
        check_source_unchanged(self.workspace, self.params, self.source)

    def parts(self) -> list["Plan"]:
        """Returns a plan for each search: on all images, then for each fold. The data must be prepared and split.

        Raises:
            UserError: The data are not prepared or not split, or the split belongs to other data.
        """
        data_hash = open_prepared(self.workspace.prepared).data_hash
        return [self.for_part(part) for part in read_parts(self.workspace, self.params, data_hash=data_hash)]

    def expected_parts(self) -> list["Plan"]:
        """Returns a plan for each search, even before the data are prepared; the splits are empty."""
        folds, nothing = self.params.evaluate.folds or 0, np.zeros(0, dtype=np.int64)
        return [
            self.for_part(
                Part(
                    number,
                    folds,
                    part_params(self.params, number),
                    Split(nothing, nothing, nothing),
                    self.workspace.split,
                )
            )
            for number in range(folds + 1)
        ]

    def task(self) -> SearchTask:
        """Returns the search of this plan. The data must be prepared and split.

        Raises:
            UserError: The data are not prepared or not split, or the split belongs to other data.
        """
        prepared = open_prepared(self.workspace.prepared)
        split = read_split(self.workspace.split, data_hash=prepared.data_hash) if self.part is None else self.part.split
        hashes = {"data_hash": prepared.data_hash, "split_hash": split.split_hash}
        params = resolve_choice(self.params, prepared, split.val)
        content = fingerprint_content(params, self.space.content(), **hashes, weights=self.pretrained)
        return self._task(content, params)

    def current_tasks(self) -> list[SearchTask]:
        """Returns the searches that will run: on all images, then for each fold; none before the data are prepared.

        The split on disk may still be that of other parameters.

        Raises:
            UserError: The data cannot be split as the parameters ask.
        """
        current = current_search(self.workspace, self.params, self.pretrained)
        if current is None:
            return []
        return [self._task(each.content, each.params, number) for number, each in enumerate(current.searches.values())]

    def task_without_data(self) -> SearchTask:
        """Returns the search before the data are prepared, without its real fingerprint."""
        return self._task({}, self.params)

    def _task(self, content: Content, params: Params, number: int | None = None) -> SearchTask:
        """Returns the search with this content.

        Args:
            content: Content from which the fingerprint is computed.
            params: Parameters of the search, with those that the data decide.
            number: Number of the fold, from 1; 0 or None for the plan's own part.
        """
        name, folder = search_directory(self.workspace.searches, content)
        number = number or (self.part.number if self.part else 0)
        part = name_part(number, self.params.evaluate.folds or 0)
        return SearchTask(
            params=params,
            asked=part_params(self.params, number) if self.part is None else self.params,
            space=self.space,
            fingerprint=name,
            folder=folder,
            prepared=self.workspace.prepared,
            split=self.workspace.split if self.part is None else self.part.path,
            resources=self.resources,
            header=cast(
                "Header",
                {
                    "fingerprint": name,
                    "set": self.params.set_name,
                    **({"part": part} if part else {}),
                    "space_file": self.space.file,
                    "content": dict(content),
                    "then": str(params.search.choose.then),
                    **self._metric(),
                    "code": code_hashes(self._plugins()),
                    "versions": versions(),
                }
                | ({"weights": to_json(self.pretrained)} if self.pretrained else {})
                | ({"known": list(self.prior_results)} if self.prior_results else {}),
            ),
            weights=self.pretrained,
        )

    def _metric(self) -> Header:
        """Returns the first objective in words, for the journal's readers; nothing for accuracy, which needs no
        explanation.
        """
        if objectives_from_params(self.params).first == VAL_ACCURACY:
            return {}
        return {"metric": objective_words(self.params).content()}

    def _plugins(self) -> dict[str, str]:
        """Returns the hashes of the user's own methods that a configuration can use."""
        used = {config.regularizer.used_plugin for _, config in self.space.representative_configs(self.params)}
        if USER_METRIC in objectives_from_params(self.params).metrics:
            used.add(self.params.evaluate.metric)
        return plugin_hashes(sorted(each for each in used if each))


def make_plan(workspace: Workspace) -> Plan:
    """Reads and checks parameters, search space, network, resources, folders and tracking store.

    Args:
        workspace: The checkout.

    Raises:
        UserError: A check fails; the first failure is reported.
    """
    params, space = read_parameters(workspace)
    check_seeds(params)
    check_objectives(params)
    check_sampler(params, space)
    check_points(params, space)
    check_rates(params, space)
    check_mixing(params, space)
    check_shares(params, space)
    check_splits(params)
    check_model_name(params.model_name)
    try:
        device = choose_device(params.base.device)
    except ValueError as error:
        raise UserError(f"params.yaml: {error}") from None
    if params.train.compile == "always" and lacks_compiler(device):
        raise UserError(
            "params.yaml: train.compile: always needs a C++ compiler on a CPU, and there is no g++ or clang++ on the "
            "PATH (CXX names another); install one, or set it to auto."
        )
    resources = trial_resources(params)
    check_checkpoints(params, space, resources)
    source = preview_source(workspace, params)
    check_class_weights(workspace, params, space, source)
    check_folds(params, has_test=source.test_images is not None)
    check_warm_start(params)
    check_probe(params, space)
    beforehand = load_prior_results(workspace, params, space, source)
    check_masks(workspace, params)
    check_metric(workspace, params, source)
    workspace.check_writable()
    pretrained = resolve_weights(workspace, space.representative_configs(params))
    write_note(workspace, pretrained)
    network = check_networks(params, space, source, str(device), pretrained)
    check_sizes(params, space, source)
    check_training_masks(workspace, params, check_regularizers(params, space, source, pretrained))
    store = resolve_store(params.tracking.uri, workspace.anchor)
    prepare_store(store)
    require_access(store, experiment=params.experiment, model=params.model_name)
    return Plan(
        workspace=workspace,
        params=params,
        space=space,
        resources=resources,
        store=store,
        device=str(device),
        source=source,
        network=network,
        pretrained=pretrained,
        freezing=describe_freezing(params, space, network),
        prior_results=tuple(beforehand),
    )
