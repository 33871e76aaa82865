"""MLflow callback of a search: logs the search's run, its trials as they proceed, and pictures of attention."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.artifacts.search_result import SearchSummary
from pipeline.artifacts.stage_results import RUN_FILE
from pipeline.assembly import load_data, load_trained
from pipeline.cluster.storage import StorageError, exists, local_copy
from pipeline.config import Params, parameters
from pipeline.console.format import config_name
from pipeline.data.batches.batches import ImageBatches
from pipeline.data.splits.split import examples_by_class
from pipeline.errors import single_item_command
from pipeline.inputs.procedure import ALL_IMAGES
from pipeline.preflight.plan import Plan
from pipeline.preflight.search_budget import describe_budget, describe_trials
from pipeline.provenance.trace import trace
from pipeline.score.similarity_maps import last_block_maps
from pipeline.stages.search.attention_images import THRESHOLD, ConfigMaps, write_attention
from pipeline.tracking.dataset_inputs import DataUsed
from pipeline.tracking.permissions import require_access
from pipeline.tracking.runs import ENTRIES, ClosedByStatus, SearchLog
from pipeline.tracking.store import experiment_id
from pipeline.tune.journal.records import COMPLETE, VAL_ACCURACY, TrialRecord
from pipeline.tune.objectives.objectives import describe_objectives, objectives_from_params
from pipeline.tune.run_counts import max_trials
from pipeline.tune.schedulers.factory import make_scheduler
from pipeline.tune.schedulers.rungs import first_rung
from pipeline.tune.space import SearchSpace
from pipeline.tune.task import SearchTask

DESCRIBING = ("base.", "prepare.", "split.", "model.", "train.", "regularizer.")
"""Sections whose parameters are the same for all trials, unless the search space varies them."""


class MlflowCallback(ClosedByStatus):
    """Callback that logs a search to MLflow through a queue (see `pipeline.tune.journal.records.SearchCallback`).

    Args:
        plan: The plan to which the search belongs.
        task: The search.
    """

    def __init__(self, plan: Plan, task: SearchTask) -> None:
        params = plan.params
        data = load_data(task.prepared, task.split, params.base.device)
        self._tags = trace(plan.workspace.root, data.prepared.data_hash) | {"sar.fingerprint": task.fingerprint}
        self._rung_epochs = rung_marks(params, plan.space)
        self._objectives = objectives_from_params(task.params)
        self._params, self._plan, self._task, self._data = params, plan, task, data
        self._pictures = (
            task.folder / "pictures"
        )  # in the search's folder, because a killed search would leave temporary files behind
        dataset, part = data.prepared.manifest, task.header.get("part", "")
        # The plan could not store a file in an experiment that did not exist yet.
        experiment_id(plan.store, params.experiment)
        require_access(plan.store, experiment=params.experiment, model=params.model_name)
        self._log = SearchLog(
            plan.store,
            experiment=params.experiment,
            fingerprint=task.fingerprint,
            # MLflow's list cuts names short, so the part that distinguishes searches comes first.
            name=f"search {task.fingerprint[:8]}: {Path(plan.space.file).stem} on {params.set_name}"
            + (f", {part}" if part else ""),
            description=describe_search(plan, task, self._tags),
            params={
                path: params.value(path)
                for path in parameters()
                if path.startswith(DESCRIBING) and path not in plan.space.dimensions
            },
            tags={**self._tags, "sar.space": plan.space.file, "sar.trials": str(max_trials(params, plan.space))}
            | ({"sar.part": part} if part else {}),
            datasets=[
                DataUsed(
                    name=str(dataset["dataset"]),
                    digest=data.prepared.data_hash,
                    source=str(task.prepared),
                    context="search",
                    counts={"train": len(data.split.train), "val": len(data.split.val)},
                )
            ],
        )
        task.folder.mkdir(parents=True, exist_ok=True)
        (task.folder / RUN_FILE).write_text(self._log.run_id + "\n")

    @property
    def run_id(self) -> str:
        """Id of the search's run in MLflow."""
        return self._log.run_id

    def replayed(self) -> None:
        """Does nothing, because updates that MLflow already has are skipped when they are sent."""

    def trial_started(self, trial: TrialRecord) -> None:
        tags = {**self._tags, "sar.role": trial.role, "sar.control": str(trial.control).lower()}
        tags |= {"sar.confirms": trial.of} if trial.of else {}
        values = {**{path: self._params.value(path) for path in self._plan.space.dimensions}, **trial.values}
        values["base.seed"] = self._params.base.seed if trial.seed is None else trial.seed
        self._log.start_trial(trial.id, run_name(trial), values, tags)

    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        self._log.log_epoch(trial.id, epoch, trial.epochs[epoch] | trial.usage.get(epoch, {}))

    def trial_paused(self, trial: TrialRecord) -> None:
        """Does nothing: the trial's run stays open, because the trial may go on."""

    def ending_early(self, reason: str, running: int, left: int) -> None:
        """Does nothing, because the search's summary gives the reason.

        Args:
            reason: The reason why no further trial is proposed.
            running: Number of runs in progress.
            left: Number of runs that may still start.
        """

    def trial_ended(self, trial: TrialRecord) -> None:
        assert trial.state is not None
        tags = {"sar.best": "false"} | ({"sar.reason": trial.reason} if trial.reason else {})
        if trial.study is not None:
            tags["sar.rung"] = str(sum(trial.last_epoch >= rung for rung in self._rung_epochs))
        if self._objectives.limits and trial.state == COMPLETE:
            tags["sar.keeps_constraints"] = str(self._objectives.is_feasible(trial)).lower()
        self._log.end_trial(trial.id, trial.state, tags=tags, metrics=trial.measured)

    def finish(self, best: TrialRecord, controls: Sequence[TrialRecord], summary: SearchSummary, results: Path) -> None:
        """Marks the best trial, and logs the summary's figures, the result files and the attention pictures.

        Args:
            best: The trial with the best configuration.
            controls: The search space's controls, first the one against which the verdict is made.
            summary: Summary of the search.
            results: Folder of the result files.
        """
        self._log.end_trial(best.id, best.state or "", tags={"sar.best": "true"})  # after every trial's "false"
        self._log.log_metrics(
            {
                **{
                    f"{name}/{metric}": trial.metric(metric)
                    for metric in dict.fromkeys((VAL_ACCURACY, self._objectives.first))
                    for name, trial in (("best", best), ("control", controls[0]))
                },
                "epochs_spent": summary.epochs.spent,
                "epochs_saved_by_stopping": summary.epochs.saved_by_stopping,
                **({"pareto_front": len(summary.front)} if summary.objectives else {}),
                **{f"trials_{state}": count for state, count in summary.trials.items()},
            },
            step=sum(summary.trials.values()) + summary.confirmations,
        )
        self._log.log_artifacts(None, results)
        if self._params.tracking.attention_images:
            self._draw({"best": best} | {control.id: control for control in controls})

    def _draw(self, trials: Mapping[str, TrialRecord]) -> None:
        """Logs pictures of the trials' attention, the best trial first; a trial without a checkpoint is left out.

        Args:
            trials: The trials, by the names that the pictures have.
        """
        prepared = self._data.prepared
        shown = examples_by_class(self._data.split.val, prepared.labels, self._params.tracking.attention_images)
        images = ImageBatches(prepared, shown, self._data.scale("train"), self._data.device)
        configs = []
        for name, trial in trials.items():
            try:
                if trial.checkpoint is None or not exists(trial.checkpoint):
                    raise StorageError("none is stored")
                with local_copy(trial.checkpoint) as folder:
                    model, _ = load_trained(folder, self._data.device)
            except StorageError as error:
                print(f"no checkpoint of {trial.id}, so its attention is not drawn: {error}", file=sys.stderr)
                continue
            threshold = float(trial.values.get(THRESHOLD, self._params.value(THRESHOLD)))
            title = f"{name}: {run_name(trial)}"
            configs.append(ConfigMaps(name, title, threshold, last_block_maps(model, images)))
        if not configs:
            return
        shutil.rmtree(self._pictures, ignore_errors=True)
        folders = write_attention(self._pictures, prepared, shown, configs)
        for name, folder in folders.items():
            self._log.log_artifacts(None if name == "all" else trials[name].id, folder)

    def close(self, status: str) -> None:
        """Ends the run, after waiting for all pending updates, and warns if some could not be sent."""
        missing = self._log.close(status)
        shutil.rmtree(self._pictures, ignore_errors=True)
        if missing:
            # DVC counts a finished search as up to date and would not run it again without force.
            again = single_item_command("search") if status == "FINISHED" else "the same command"
            print(
                f"warning: {missing:,} {ENTRIES} of this search did not reach {self._plan.store.shown}; to send them, "
                f"run {again} once it answers (nothing is trained again)",
                file=sys.stderr,
            )


def run_name(trial: TrialRecord) -> str:
    """Returns a trial's name in a list of runs: `w=0.012 layers=last t=0.3 (t0007)`, or `baseline w=0` of a control."""
    config = config_name(trial.values, short=True)
    return f"{trial.id} {config}" if trial.control else f"{config} ({trial.id})"


def rung_marks(params: Params, space: SearchSpace) -> list[int]:
    """Returns the epochs at which a search with these parameters compares trials; none without early stopping."""
    return make_scheduler(params.search.scheduler, params.train.epochs, first_rung(params, space)).rung_epochs


def search_variables(plan: Plan, task: SearchTask) -> dict[str, object]:
    """Returns the variables that a hook receives when a search has begun."""
    return {
        "fingerprint": task.fingerprint,
        "set": plan.params.set_name,
        "space": plan.space.file,
        "store": plan.store.shown,
        "experiment": plan.params.experiment,
        "folder": task.folder,
        **({"part": part} if (part := task.header.get("part")) else {}),
    }


def _describe_part(task: SearchTask) -> str:
    part = task.header.get("part", "")
    return f", the images outside {part}" if part and part != ALL_IMAGES else ""


def describe_search(plan: Plan, task: SearchTask, tags: Mapping[str, str]) -> str:
    """Returns the description (Markdown) of a search's run: its space, its data, the command and the code.

    Args:
        plan: The plan to which the search belongs.
        task: The search.
        tags: Tags of the run, which name the commit and the data's hash.
    """
    params, search = plan.params, plan.params.search
    lines = {
        "what": f"{describe_trials(params, plan.space)} over {', '.join(plan.space.dimensions)} "
        f"({plan.space.file}), with the controls {', '.join(plan.space.controls)}; {search.sampler.name} with "
        f"{search.scheduler.name}, {params.train.epochs} epochs a trial",
        "budget": describe_budget(params, plan.space),
        **describe_objectives(params),
        "on what": f"{params.set_name}{_describe_part(task)}: {plan.images:,} images of "
        f"{params.prepare.image_size} pixels a side, {params.model.name}; data `{tags['sar.data_hash'][:12]}`",
        "command": "`make repro`, or `dvc repro search` for this part alone",
        "code": f"commit `{tags['sar.commit']}`",
        "to follow": f"`sar-search status {task.fingerprint[:8]}` shows its state",
        "to filter": "tags `sar.state`, `sar.role`, `sar.control`, `sar.best`, `sar.rung` (how many it has reached)",
    }
    return "\n".join(f"- **{name}** {text}" for name, text in lines.items())
