"""Pending updates of an MLflow run, and the calls that send them.

Every call may be repeated after its response was lost. A run is looked up before it is created a second time, and
stored parameters and metrics are skipped. If sending is interrupted, the next attempt therefore completes it.
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from posixpath import normpath

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

PARENT_TAG = "mlflow.parentRunId"
STATE_TAG = "sar.state"
NONFINITE = "sar.nonfinite."


@dataclass
class RunUpdate:
    """The part of a run that the store does not have yet.

    Attributes:
        identity: tags that no other run of the experiment has, by which the run is found.
        name: name of the run.
        run_id: MLflow's id; None: not found or created yet.
        tags: tags to send.
        params: parameters to send.
        metrics: (name, value, step, time in ms) to send; a step of None means the last step of the run.
        datasets: data that the run has read, to send.
        artifacts: (file or folder, folder in the run's artifacts) to send.
        status: MLflow's status, once the run has ended; None: still running.
        ended_ms: end of the run, in ms since 1970.
        started_ms: start of the run, in ms since 1970.
        reopen: whether the run continues after it had ended.
        ran: whether something new was logged for it.
        is_open: whether the run was found or created in MLflow.
        asked: whether creating it was tried.
        has_lost: whether a part of the update was discarded.
        stored_status: the run's status in MLflow.
        stored_tags: its tags in MLflow.
        stored_params: names of its parameters in MLflow.
        stored_metrics: names of its metrics in MLflow when it was opened.
        history: values in MLflow by name and step; None: not read yet.
        last_step: last step of the run.
    """

    identity: Mapping[str, str]
    name: str
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int | None, int]] = field(default_factory=list)
    datasets: list[DatasetInput] = field(default_factory=list)
    artifacts: list[tuple[Path, str | None]] = field(default_factory=list)
    status: str | None = None
    ended_ms: int | None = None
    started_ms: int = field(default_factory=lambda: now_ms())

    reopen: bool = False
    ran: bool = False

    # The state of sending, and, once the run is open, its state in MLflow.
    is_open: bool = False
    asked: bool = False
    has_lost: bool = False
    stored_status: str = ""
    stored_tags: dict[str, str] = field(default_factory=dict)
    stored_params: set[str] = field(default_factory=set)
    stored_metrics: tuple[str, ...] = ()
    history: dict[tuple[str, int], float] | None = None
    last_step: int = 0

    def add_params(self, params: Mapping[str, object]) -> None:
        """Adds parameters, cut to MLflow's length."""
        self.params.update({legal_name(key): str(value)[:MAX_PARAM_VAL_LENGTH] for key, value in params.items()})

    def add_tags(self, tags: Mapping[str, object]) -> None:
        """Adds tags, cut to MLflow's length; a later value replaces an earlier one."""
        self.tags.update({legal_name(key): str(value)[:MAX_TAG_VAL_LENGTH] for key, value in tags.items()})

    def add_metrics(self, metrics: Mapping[str, float], step: int | None, time_ms: int) -> None:
        """Adds metrics. If a value is not finite, its first step is stored as a tag instead.

        Args:
            metrics: values by name.
            step: MLflow's step, an epoch; None: the last step of the run.
            time_ms: time of the measurement, in ms since 1970.
        """
        # Such values are not sent, since SQL stores turn them into plausible ones: infinity into 1.8e308, NaN into 0.
        for key, value in metrics.items():
            if math.isfinite(value):
                self.metrics.append((legal_name(key), value, step, time_ms))
            else:
                self.tags.setdefault(legal_name(NONFINITE + key), str(self.last_step if step is None else step))

    def end_run(self, status: str, time_ms: int) -> None:
        """Marks the run as ended, with one of MLflow's statuses."""
        self.status, self.ended_ms = status, time_ms

    def discard(self, parts: Iterable[str]) -> int:
        """Removes parts from the update without sending them, and returns the number of entries removed."""
        before = self.num_pending
        self.reopen = False
        for part in parts:
            if part == "status":
                self.status = None
            else:
                getattr(self, part).clear()
        return before - self.num_pending

    @property
    def num_pending(self) -> int:
        """Number of entries that are still to be sent."""
        parts = (self.tags, self.params, self.metrics, self.datasets, self.artifacts)
        return (
            sum(len(part) for part in parts)
            + (self.status is not None)
            + self.reopen
            + (not self.is_open and not self.has_lost)
        )


class RunWriter:
    """Writer of updates to one experiment.

    Args:
        client: MLflow's client.
        experiment: id of the experiment.

    Attributes:
        steps: methods to call, in this order, each with the parts of an update that it sends.
    """

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.client = client
        self.experiment = experiment
        self.steps: tuple[tuple[Callable[[RunUpdate], None], tuple[str, ...]], ...] = (
            (self.open, ("metrics", "params", "tags", "datasets", "artifacts", "status")),
            (self.send_batch, ("metrics", "params", "tags")),
            (self.send_datasets, ("datasets",)),
            (self.send_artifacts, ("artifacts",)),
            (self.send_status, ("status",)),
        )

    def flush(self, update: RunUpdate) -> None:
        """Sends an update. Parts that were sent are removed from it, also if a later step fails."""
        for step, _ in self.steps:
            step(update)

    def find(self, tags: Mapping[str, str]) -> list[Run]:
        """Returns the runs with these tags, the newest first.

        Raises:
            ValueError: a tag's value has a single quote, which MLflow's searches cannot contain.
        """
        terms = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        if any("'" in value for value in tags.values()):
            raise ValueError(f"MLflow cannot search for quotes, as in {dict(tags)}")
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], " and ".join(terms), order_by=["attributes.start_time DESC"], page_token=token
            )
            found += page
            if not (token := page.token):
                return found

    def open(self, update: RunUpdate) -> None:
        """Finds the update's run, or creates it."""
        if update.is_open:
            return
        if update.run_id is None and update.asked and (found := self.find(update.identity)):
            update.run_id = str(found[0].info.run_id)  # created by a call whose response was lost
        if update.run_id is not None:
            self._reopen(update, self.client.get_run(update.run_id))
            return
        update.asked = True
        tags = {**update.tags, **update.identity}
        run = self.client.create_run(self.experiment, update.started_ms, tags, update.name)
        update.run_id = str(run.info.run_id)
        update.stored_status, update.stored_tags, update.history = "RUNNING", tags, {}
        update.tags.clear()
        update.is_open = update.ran = True

    def _reopen(self, update: RunUpdate, run: Run) -> None:
        """Reads the state of an existing run into the update."""
        update.stored_status = str(run.info.status)
        update.stored_tags = dict(run.data.tags)
        update.stored_metrics = tuple(run.data.metrics)
        update.stored_params = set(run.data.params)
        update.is_open = True

    def send_batch(self, update: RunUpdate) -> None:
        """Sends metrics, parameters and tags that MLflow does not have yet, as one batch."""
        assert update.run_id is not None
        if update.metrics and update.history is None:
            update.history = self._read_history(update.run_id, update.stored_metrics)
            update.last_step = max((step for _, step in update.history), default=0)
        metrics: dict[tuple[str, int], Metric] = {}
        known = update.history or {}
        for key, value, step, time_ms in update.metrics:
            update.last_step = max(update.last_step, step or 0)
            at = update.last_step if step is None else step
            if known.get((key, at)) != value:
                metrics[key, at] = Metric(key, value, time_ms, at)
        update.ran |= bool(metrics)
        if update.stored_status != "RUNNING" and (update.reopen or (metrics and STATE_TAG in update.stored_tags)):
            self.client.update_run(update.run_id, status="RUNNING")
            update.stored_status = "RUNNING"
            if STATE_TAG in update.stored_tags:
                update.tags.setdefault(STATE_TAG, "running")
        elif update.stored_status != "RUNNING" and update.tags.get(STATE_TAG) == "running":
            del update.tags[STATE_TAG]  # only stored values were sent again, which does not reopen the run
        tags = {key: value for key, value in update.tags.items() if update.stored_tags.get(key) != value}
        for key in [key for key in tags if key.startswith(NONFINITE) and key in update.stored_tags]:
            del tags[key]  # the stored tag has the first epoch
        # MLflow refuses a second value of a parameter, and with it the whole batch, metrics included.
        params = {key: value for key, value in update.params.items() if key not in update.stored_params}
        if metrics or params or tags:
            self.client.log_batch(
                update.run_id,
                metrics=list(metrics.values()),
                params=[Param(key, value) for key, value in params.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )
        if update.history is not None:
            update.history.update({place: float(metric.value) for place, metric in metrics.items()})
        update.stored_tags |= tags
        update.stored_params |= params.keys()
        update.reopen = False
        update.metrics.clear()
        update.params.clear()
        update.tags.clear()

    def _read_history(self, run_id: str, metrics: Iterable[str]) -> dict[tuple[str, int], float]:
        """Returns a run's stored values of some metrics, by name and step."""
        return {
            (key, int(point.step)): float(point.value)
            for key in metrics
            for point in self.client.get_metric_history(run_id, key)
        }

    def send_datasets(self, update: RunUpdate) -> None:
        """Sends the data that the run has read."""
        if update.datasets:
            self.client.log_inputs(_id(update), update.datasets)
            update.datasets.clear()

    def send_artifacts(self, update: RunUpdate) -> None:
        """Sends files and folders one by one, so that an interruption repeats only one of them."""
        while update.artifacts:
            source, place = update.artifacts[0]
            if source.is_dir():
                self.client.log_artifacts(_id(update), str(source), place)
            else:
                self.client.log_artifact(_id(update), str(source), place)
            del update.artifacts[0]

    def send_status(self, update: RunUpdate) -> None:
        """Sends the status with which the run ended, unless MLflow has it."""
        if update.status is not None and update.status != update.stored_status:
            self.client.set_terminated(_id(update), update.status, update.ended_ms)
            update.stored_status = update.status
        update.status = None


def now_ms() -> int:
    """Returns the present time in milliseconds since 1970, MLflow's unit."""
    return time.time_ns() // 1_000_000


@lru_cache(maxsize=4096)
def legal_name(name: str) -> str:
    """Returns a name in which everything that MLflow refuses is replaced.

    MLflow accepts letters, digits, spaces and _-./: but no paths such as ../a.
    """
    plain = re.sub(r"[^/\w.\- :]", "_", name)[:MAX_ENTITY_KEY_LENGTH] or "_"
    odd = plain == "." or plain.startswith(("/", "..")) or normpath(plain) != plain
    return re.sub("[/.]", "_", plain) if odd else plain


def _id(update: RunUpdate) -> str:
    assert update.run_id is not None
    return update.run_id
