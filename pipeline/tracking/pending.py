"""What is still to be told to MLflow about a run, and the few calls that tell it.

Every call may be made again after its answer was lost: a run is looked for before it is made a second time, parameters
and metrics that are there already are left out. So whatever interrupts a delivery, the next one completes it.
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
class Letter:
    """One run's undelivered news. identity: the tags that no other run of the experiment has, by which it is found.

    metrics: (name, value, step, time in ms); a step of None is the last one that the run has seen.
    artifacts: (file or folder, folder inside the run's artifacts). status: MLflow's, once the run has ended. reopen: it
    goes on after it had ended. ran: something new was told of it.
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

    def end(self, status: str, time_ms: int) -> None:
        """The run has ended, with MLflow's `status`."""
        self.status, self.ended_ms = status, time_ms

    def discard(self, parts: Iterable[str]) -> int:
        """Take the parts off the letter undelivered, and say how many things they held."""
        before = self.pending
        self.reopen = False
        for part in parts:
            if part == "status":
                self.status = None
            else:
                getattr(self, part).clear()
        return before - self.pending

    @property
    def pending(self) -> int:
        """How many things are still to be told."""
        parts = (self.tags, self.params, self.metrics, self.datasets, self.artifacts)
        return (
            sum(len(part) for part in parts)
            + (self.status is not None)
            + self.reopen
            + (not self.is_open and not self.has_lost)
        )


class Postman:
    """Delivers letters to one experiment. `steps`: what to call, in this order, and the parts of a letter it tells."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.client = client
        self.experiment = experiment
        self.steps: tuple[tuple[Callable[[Letter], None], tuple[str, ...]], ...] = (
            (self.open, ("metrics", "params", "tags", "datasets", "artifacts", "status")),
            (self.send_batch, ("metrics", "params", "tags")),
            (self.send_datasets, ("datasets",)),
            (self.send_artifacts, ("artifacts",)),
            (self.send_status, ("status",)),
        )

    def deliver(self, letter: Letter) -> None:
        """Tell everything; what was told is taken off the letter, also when a later step fails."""
        for step, _ in self.steps:
            step(letter)

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

    def open(self, letter: Letter) -> None:
        """Find the letter's run, or make it."""
        if letter.is_open:
            return
        if letter.run_id is None and letter.asked and (found := self.find(letter.identity)):
            letter.run_id = str(found[0].info.run_id)  # made by a call whose answer never came
        if letter.run_id is not None:
            self._reopen(letter, self.client.get_run(letter.run_id))
            return
        letter.asked = True
        tags = {**letter.tags, **letter.identity}
        run = self.client.create_run(self.experiment, letter.started_ms, tags, letter.name)
        letter.run_id = str(run.info.run_id)
        letter.stored_status, letter.stored_tags, letter.history = "RUNNING", tags, {}
        letter.tags.clear()
        letter.is_open = letter.ran = True

    def _reopen(self, letter: Letter, run: Run) -> None:
        letter.stored_status = str(run.info.status)
        letter.stored_tags = dict(run.data.tags)
        letter.stored_metrics = tuple(run.data.metrics)
        letter.stored_params = set(run.data.params)
        letter.is_open = True

    def send_batch(self, letter: Letter) -> None:
        """Metrics, parameters and tags that MLflow does not have yet, in as few calls as it allows."""
        assert letter.run_id is not None
        if letter.metrics and letter.history is None:
            letter.history = self._read_history(letter.run_id, letter.stored_metrics)
            letter.last_step = max((step for _, step in letter.history), default=0)
        metrics: dict[tuple[str, int], Metric] = {}
        known = letter.history or {}
        for key, value, step, time_ms in letter.metrics:
            letter.last_step = max(letter.last_step, step or 0)
            at = letter.last_step if step is None else step
            if known.get((key, at)) != value:
                metrics[key, at] = Metric(key, value, time_ms, at)
        letter.ran |= bool(metrics)
        if letter.stored_status != "RUNNING" and (letter.reopen or (metrics and STATE_TAG in letter.stored_tags)):
            self.client.update_run(letter.run_id, status="RUNNING")
            letter.stored_status = "RUNNING"
            if STATE_TAG in letter.stored_tags:
                letter.tags.setdefault(STATE_TAG, "running")
        elif letter.stored_status != "RUNNING" and letter.tags.get(STATE_TAG) == "running":
            del letter.tags[STATE_TAG]  # so far only what is known was told again, which does not open it
        tags = {key: value for key, value in letter.tags.items() if letter.stored_tags.get(key) != value}
        for key in [key for key in tags if key.startswith(NONFINITE) and key in letter.stored_tags]:
            del tags[key]  # the first epoch stays
        # Parameters cannot be changed: a second value would be refused, and the metrics of its batch with it.
        params = {key: value for key, value in letter.params.items() if key not in letter.stored_params}
        if metrics or params or tags:
            self.client.log_batch(
                letter.run_id,
                metrics=list(metrics.values()),
                params=[Param(key, value) for key, value in params.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )
        if letter.history is not None:
            letter.history.update({place: float(metric.value) for place, metric in metrics.items()})
        letter.stored_tags |= tags
        letter.stored_params |= params.keys()
        letter.reopen = False
        letter.metrics.clear()
        letter.params.clear()
        letter.tags.clear()

    def _read_history(self, run_id: str, metrics: Iterable[str]) -> dict[tuple[str, int], float]:
        return {
            (key, int(point.step)): float(point.value)
            for key in metrics
            for point in self.client.get_metric_history(run_id, key)
        }

    def send_datasets(self, letter: Letter) -> None:
        """What the run has read."""
        if letter.datasets:
            self.client.log_inputs(_id(letter), letter.datasets)
            letter.datasets.clear()

    def send_artifacts(self, letter: Letter) -> None:
        """Files and folders, one by one, so that an interruption repeats one of them only."""
        while letter.artifacts:
            source, place = letter.artifacts[0]
            if source.is_dir():
                self.client.log_artifacts(_id(letter), str(source), place)
            else:
                self.client.log_artifact(_id(letter), str(source), place)
            del letter.artifacts[0]

    def send_status(self, letter: Letter) -> None:
        """How the run ended, unless it is known."""
        if letter.status is not None and letter.status != letter.stored_status:
            self.client.set_terminated(_id(letter), letter.status, letter.ended_ms)
            letter.stored_status = letter.status
        letter.status = None


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


@lru_cache(maxsize=4096)
def legal_name(name: str) -> str:
    """The name with what MLflow refuses replaced: all but letters, digits, spaces and _-./: and paths such as ../a."""
    plain = re.sub(r"[^/\w.\- :]", "_", name)[:MAX_ENTITY_KEY_LENGTH] or "_"
    odd = plain == "." or plain.startswith(("/", "..")) or normpath(plain) != plain
    return re.sub("[/.]", "_", plain) if odd else plain


def _id(letter: Letter) -> str:
    assert letter.run_id is not None
    return letter.run_id
