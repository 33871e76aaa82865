"""Pending updates of an MLflow run, and the calls that send them.

Every call may be made again after its answer was lost: a run is looked for before it is made a second time, parameters
and metrics that are there already are left out. So whatever interrupts the sending, the next attempt completes it.
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
    """What the store has not got of one run.

    identity: the tags that no other run of the experiment has, by which it is found.

    metrics: (name, value, step, time in ms); a step of None is the last one that the run has seen.
    artifacts: (file or folder, folder inside the run's artifacts). status: MLflow's, once the run has ended. reopen: it
    goes on after it had ended. ran: something new was logged of it.
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

    # What is known of the run as MLflow has it, once it is open.
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
        """Take parameters in, cut to MLflow's length."""
        self.params.update({legal_name(key): str(value)[:MAX_PARAM_VAL_LENGTH] for key, value in params.items()})

    def add_tags(self, tags: Mapping[str, object]) -> None:
        """Take tags in, cut to MLflow's length; a later value replaces an earlier one."""
        self.tags.update({legal_name(key): str(value)[:MAX_TAG_VAL_LENGTH] for key, value in tags.items()})

    def add_metrics(self, metrics: Mapping[str, float], step: int | None, time_ms: int) -> None:
        """Take metrics in; the first step at which one is not finite becomes a tag."""
        # Not sent as metrics: SQL stores turn them into numbers that look real, infinity into 1.8e308, NaN into 0.
        for key, value in metrics.items():
            if math.isfinite(value):
                self.metrics.append((legal_name(key), value, step, time_ms))
            else:
                self.tags.setdefault(legal_name(NONFINITE + key), str(self.last_step if step is None else step))

    def end_run(self, status: str, time_ms: int) -> None:
        """The run has ended, with MLflow's `status`."""
        self.status, self.ended_ms = status, time_ms

    def discard(self, parts: Iterable[str]) -> int:
        """Take the parts off the update without sending them, and say how many things they held."""
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
        """How many things are still to be sent."""
        parts = (self.tags, self.params, self.metrics, self.datasets, self.artifacts)
        return (
            sum(len(part) for part in parts)
            + (self.status is not None)
            + self.reopen
            + (not self.is_open and not self.has_lost)
        )


class RunWriter:
    """Sends updates to one experiment. `steps`: what to call, in this order, and the parts of an update it sends."""

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
        """Send everything; what was sent is taken off the update, also when a later step fails."""
        for step, _ in self.steps:
            step(update)

    def find(self, tags: Mapping[str, str]) -> list[Run]:
        """The runs with these tags, the newest first."""
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
        """Find the update's run, or make it."""
        if update.is_open:
            return
        if update.run_id is None and update.asked and (found := self.find(update.identity)):
            update.run_id = str(found[0].info.run_id)  # made by a call whose answer never came
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
        update.stored_status = str(run.info.status)
        update.stored_tags = dict(run.data.tags)
        update.stored_metrics = tuple(run.data.metrics)
        update.stored_params = set(run.data.params)
        update.is_open = True

    def send_batch(self, update: RunUpdate) -> None:
        """Metrics, parameters and tags that MLflow does not have yet, in as few calls as it allows."""
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
            del update.tags[STATE_TAG]  # so far only what is known was told again, which does not open it
        tags = {key: value for key, value in update.tags.items() if update.stored_tags.get(key) != value}
        for key in [key for key in tags if key.startswith(NONFINITE) and key in update.stored_tags]:
            del tags[key]  # the first epoch stays
        # Parameters cannot be changed: a second value would be refused, and the metrics of its batch with it.
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
        return {
            (key, int(point.step)): float(point.value)
            for key in metrics
            for point in self.client.get_metric_history(run_id, key)
        }

    def send_datasets(self, update: RunUpdate) -> None:
        """What the run has read."""
        if update.datasets:
            self.client.log_inputs(_id(update), update.datasets)
            update.datasets.clear()

    def send_artifacts(self, update: RunUpdate) -> None:
        """Files and folders, one by one, so that an interruption repeats one of them only."""
        while update.artifacts:
            source, place = update.artifacts[0]
            if source.is_dir():
                self.client.log_artifacts(_id(update), str(source), place)
            else:
                self.client.log_artifact(_id(update), str(source), place)
            del update.artifacts[0]

    def send_status(self, update: RunUpdate) -> None:
        """How the run ended, unless it is known."""
        if update.status is not None and update.status != update.stored_status:
            self.client.set_terminated(_id(update), update.status, update.ended_ms)
            update.stored_status = update.status
        update.status = None


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


@lru_cache(maxsize=4096)
def legal_name(name: str) -> str:
    """The name with what MLflow refuses replaced: all but letters, digits, spaces and _-./: and paths such as ../a."""
    plain = re.sub(r"[^/\w.\- :]", "_", name)[:MAX_ENTITY_KEY_LENGTH] or "_"
    odd = plain == "." or plain.startswith(("/", "..")) or normpath(plain) != plain
    return re.sub("[/.]", "_", plain) if odd else plain


def _id(update: RunUpdate) -> str:
    assert update.run_id is not None
    return update.run_id
