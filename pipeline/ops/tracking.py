"""What a search tells MLflow: its parent run, its trials as they go, pictures of what the regulariser did."""

import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from pipeline.assembly import load_data, load_trained
from pipeline.config import parameters
from pipeline.data.batches import ImageBatches
from pipeline.figures.attention import attention_figure, comparison_figure
from pipeline.ops.attention import last_block_maps, one_of_each
from pipeline.ops.identity import setting_name, trace
from pipeline.ops.plan import Plan
from pipeline.ops.results import RUN_FILE
from pipeline.track.runs import DataUsed, SearchLog
from pipeline.tune.ledger import TrialRecord
from pipeline.tune.runner import SearchTask

DESCRIBING = ("base.", "prepare.", "split.", "model.", "train.", "regularizer.")
"""Sections whose parameters are the same for all trials, unless the space varies them."""


class TrackedSearch:
    """Follows a search (see `pipeline.tune.ledger.SearchListener`) and writes it to MLflow from a queue."""

    def __init__(self, plan: Plan, task: SearchTask) -> None:
        params = plan.params
        data = load_data(task.prepared, task.split, params.base.device)
        self._tags = trace(plan.workspace.root, data.prepared.data_hash) | {"sar.fingerprint": task.fingerprint}
        self._params, self._plan, self._task, self._data = params, plan, task, data
        self._pictures = TemporaryDirectory(prefix="sar-attention-")
        dataset = data.prepared.manifest
        self._log = SearchLog(
            plan.store,
            experiment=params.experiment,
            fingerprint=task.fingerprint,
            name=f"search {Path(plan.space.file).stem} on {params.set_name} ({task.fingerprint[:8]})",
            description=(
                f"Search over {', '.join(plan.space.dimensions)} ({plan.space.file}) on {params.set_name}: "
                f"{plan.images:,} images, {params.model.name}, {params.train.epochs} epochs a trial, "
                f"{params.search.sampler.name} with {params.search.scheduler.name}. Started by `dvc repro search`."
            ),
            params={
                path: params.value(path)
                for path in parameters()
                if path.startswith(DESCRIBING) and path not in plan.space.dimensions
            },
            tags={**self._tags, "sar.space": plan.space.file, "sar.trials": str(params.search.trials)},
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

    def replayed(self) -> None:
        """MLflow finds by itself what it has already."""

    def trial_started(self, trial: TrialRecord) -> None:
        name = f"{trial.id} {setting_name(trial.values)}"
        tags = {**self._tags, "sar.role": trial.role} | ({"sar.confirms": trial.of} if trial.of else {})
        settings = {path: self._params.value(path) for path in self._plan.space.dimensions} | trial.values
        settings["base.seed"] = self._params.base.seed if trial.seed is None else trial.seed
        self._log.start_trial(trial.id, name, settings, tags)

    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        self._log.log_epoch(trial.id, epoch, trial.epochs[epoch])

    def trial_ended(self, trial: TrialRecord) -> None:
        assert trial.state is not None
        tags = {"sar.reason": trial.reason} if trial.reason else None
        self._log.end_trial(trial.id, trial.state, tags=tags)

    def finish(self, best: TrialRecord, control: TrialRecord, summary: Mapping[str, Any], results: Path) -> None:
        """Mark the best trial, and log the summary's figures, the result files and the attention pictures."""
        self._log.end_trial(best.id, best.state or "", tags={"sar.best": "true"})
        self._log.log_metrics(
            {
                "best/val/accuracy": best.metric("val/accuracy"),
                "control/val/accuracy": control.metric("val/accuracy"),
                "epochs_spent": summary["epochs"]["spent"],
                "epochs_saved_by_stopping": summary["epochs"]["saved_by_stopping"],
                **{f"trials_{state}": count for state, count in summary["trials"].items()},
            },
            step=sum(summary["trials"].values()) + summary["confirmations"],
        )
        self._log.log_artifacts(None, results)
        if self._params.tracking.attention_images:
            self._draw(best, control)

    def _draw(self, best: TrialRecord, control: TrialRecord) -> None:
        prepared, split = self._data.prepared, self._data.split
        shown = one_of_each(split.val, prepared.labels, self._params.tracking.attention_images)
        images = ImageBatches(prepared, shown, self._data.scale("train"), self._data.device)
        masks = prepared.masks[shown] if prepared.masks is not None else None
        maps, folders = {}, {}
        for role, trial in (("best", best), (control.id, control)):
            if trial.checkpoint is None or not Path(trial.checkpoint).is_dir():
                print(f"no checkpoint of {trial.id} is left, so its attention is not drawn", file=sys.stderr)
                continue
            model, _ = load_trained(Path(trial.checkpoint), self._data.device)
            maps[role] = last_block_maps(model, images)
            folders[role] = Path(self._pictures.name) / role / "attention"
            folders[role].mkdir(parents=True, exist_ok=True)
            threshold = float(trial.values.get("regularizer.spatial_entropy.threshold", 0.0))
            figure = attention_figure(
                prepared.images[shown], maps[role], masks=masks, threshold=threshold,
                title=f"{trial.id} ({role}): {setting_name(trial.values)}",
            )  # fmt: skip
            figure.savefig(folders[role] / "validation_images.png", dpi=110)
            self._log.log_artifacts(trial.id, folders[role].parent)
        if len(maps) == 2:
            folder = Path(self._pictures.name) / "both" / "attention"
            folder.mkdir(parents=True, exist_ok=True)
            figure = comparison_figure(prepared.images[shown], maps, masks=masks, title="best and control")
            figure.savefig(folder / "best_and_control.png", dpi=110)
            self._log.log_artifacts(None, folder.parent)

    def close(self, status: str) -> None:
        """End the run, waiting until what was told is written."""
        missing = self._log.close(status)
        self._pictures.cleanup()
        if missing:
            # DVC takes a search that has finished for done, and would not run it again by itself.
            again = "dvc repro --single-item --force search" if status == "FINISHED" else "the same command"
            print(
                f"warning: {self._plan.store.shown} did not take {missing} entries of this search; to tell them, run "
                f"{again} once it answers (nothing is trained again)",
                file=sys.stderr,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        self.close("KILLED" if interrupted else "FAILED" if kind else "FINISHED")
