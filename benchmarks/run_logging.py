"""What it takes to log trials to MLflow, beside Ray's own callback, and the UI's list of runs with a thousand of them.

Run: python benchmarks/run_logging.py

All sides log trials of 100 epochs x 8 metrics into a new sqlite store of their own, in turns, in one process. Ours is
told all at once, which makes large batches, and once more with a delivery after every epoch, which is what a search of
slow epochs does. Ray's callback is driven as Tune drives it, with the seven numbers that Tune adds to every report and
that the callback writes too: one ratio is of the time for the same trials, the other of that for a number written.

The callback has no setting that makes it faster: it writes each number by a call of its own. What its users can do is
to turn on MLflow's asynchronous logging with a buffer (two variables of the environment), which gathers those calls to
batches of up to a thousand numbers: its best, to be held against ours told at once. Or they write a callback of a few
lines that logs each report as one batch: the best of a delivery an epoch. All count until the last number is stored.

Then a search logs a thousand trials, stays open and goes on with two more, while a real `mlflow server` is asked what
the UI asks for its list.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from harness import header, keep, table, time_pairs
from mlflow_server import MlflowServer

from pipeline.tracking.pending import RunUpdate, RunWriter, now_ms
from pipeline.tracking.runs import SearchLog
from pipeline.tracking.store import Store, client, experiment_id, prepare_store, resolve_store

EPOCHS = 100
METRICS = tuple(f"val/metric_{number}" for number in range(8))
SETTING = {f"regularizer.spatial_entropy.{name}": 0.1 for name in ("weight", "layers", "threshold")}
TARGET_S = 2.0
STOCK = "Ray's MLflowLoggerCallback, as it comes"
BUFFERED = "Ray's MLflowLoggerCallback, MLflow's logging asynchronous and buffered"
BATCHED = "a callback by hand, a batch a report"
ASYNCHRONOUS = {"MLFLOW_ENABLE_ASYNC_LOGGING": "true", "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "1"}
ADDRESS = "sqlite:///mlflow.db"  # given, since Ray's callback sets MLFLOW_TRACKING_URI
PAGE = 100
"""Runs that the UI asks for at a time."""


def figures(epoch: int) -> dict[str, float]:
    return {name: 1 / (epoch + number) for number, name in enumerate(METRICS)}


def tell(log: SearchLog, trial: str, epochs: int = EPOCHS) -> None:
    log.start_trial(trial, f"w=0.1 layers=last t=0 ({trial})", SETTING, {"sar.role": "trial", "sar.control": "false"})
    for epoch in range(1, epochs + 1):
        log.log_epoch(trial, epoch, figures(epoch))
    log.end_trial(trial, "complete", tags={"sar.best": "false"})


def open_search(store: Store, name: str) -> SearchLog:
    return SearchLog(store, experiment="benchmark", fingerprint=name, name=name, description="", params={})


class Sides:
    """The ways, each on a store of its own; every call logs `trials` further trials."""

    def __init__(self, folder: Path, trials: int) -> None:
        template = folder / "template"
        prepare_store(resolve_store(ADDRESS, template))
        self._trials, self._turn = trials, 0
        self._stores = {}
        for side in ("ours", "by epoch", "ray", "buffered", "batched"):
            (folder / side).mkdir()
            shutil.copy(template / "mlflow.db", folder / side / "mlflow.db")
            self._stores[side] = resolve_store(ADDRESS, folder / side)
        self.held: list[float] = []

    def ours(self) -> None:
        """Until the last metric is in the store."""
        self._turn += 1
        log = open_search(self._stores["ours"], f"search {self._turn}")
        began = time.perf_counter()
        for trial in range(self._trials):
            tell(log, f"t{trial:04d}")
        self.held.append(time.perf_counter() - began)
        if log.close():
            raise RuntimeError("not everything was delivered")

    def ours_by_epoch(self) -> None:
        store = self._stores["by epoch"]
        postman = RunWriter(client(store), experiment_id(store, "benchmark"))
        for trial in range(self._trials):
            letter = RunUpdate({"sar.trial": f"{self._turn}-{trial}"}, f"trial {trial}")
            letter.add_params(SETTING)
            for epoch in range(1, EPOCHS + 1):
                letter.add_metrics(figures(epoch), epoch, now_ms())
                postman.flush(letter)
            letter.end_run("FINISHED", now_ms())
            postman.flush(letter)

    def ray(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ray.air.integrations.mlflow import MLflowLoggerCallback
        uri = self._stores["ray"].uri
        self._drive(MLflowLoggerCallback(tracking_uri=uri, registry_uri=uri, experiment_name="benchmark"))

    def buffered(self) -> None:
        """As `ray`, with what MLflow offers for many small calls."""
        import mlflow
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = self._stores["buffered"].uri
        os.environ |= ASYNCHRONOUS
        try:
            self._drive(MLflowLoggerCallback(tracking_uri=uri, registry_uri=uri, experiment_name="benchmark"))
            mlflow.flush_async_logging()
        finally:
            for name in ASYNCHRONOUS:
                del os.environ[name]

    def batched(self) -> None:
        self._drive(_batching(self._stores["batched"]))

    def _drive(self, callback: Any) -> None:
        """Call it as Tune does."""
        from ray.tune.experiment import Trial

        callback.setup()
        for number in range(self._trials):
            name = f"{self._turn}-{number}"
            trial = Trial("trainable", config=dict(SETTING), trial_id=name, stub=True)
            callback.on_trial_start(0, [trial], trial)
            for epoch in range(1, EPOCHS + 1):
                callback.on_trial_result(epoch, [trial], trial, figures(epoch) | tunes_own(epoch))
            callback.on_trial_complete(EPOCHS, [trial], trial)

    def check(self, turns: int) -> None:
        """That each has written what it says: the last value of a metric in every run."""
        for side, store in self._stores.items():
            experiments = [found.experiment_id for found in client(store).search_experiments()]
            runs = client(store).search_runs(experiments, max_results=1000)
            whole = [run for run in runs if run.data.metrics.get(METRICS[-1]) == figures(EPOCHS)[METRICS[-1]]]
            if len(whole) != turns * self._trials:
                raise RuntimeError(f"{side}: {len(whole)} runs have been written whole")


def _batching(store: Store) -> Any:
    """What a user of Tune would write: one call of MLflow a report, with the numbers that were reported and no more."""
    from mlflow.entities import Metric, Param
    from ray import tune

    class Batching(tune.Callback):  # type: ignore[misc]
        def setup(self, *_: Any, **__: Any) -> None:
            self._client, self._runs = client(store), dict[str, str]()
            self._experiment = experiment_id(store, "benchmark")

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            run = self._client.create_run(self._experiment, run_name=trial.trial_id).info.run_id
            self._runs[trial.trial_id] = run
            self._client.log_batch(run, params=[Param(name, str(value)) for name, value in trial.config.items()])

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
            metrics = [Metric(name, result[name], now_ms(), iteration) for name in METRICS]
            self._client.log_batch(self._runs[trial.trial_id], metrics)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            self._client.set_terminated(self._runs[trial.trial_id])

    return Batching()


def tunes_own(epoch: int) -> dict[str, Any]:
    """The numbers that Tune adds to a report."""
    seconds = dict.fromkeys(("time_total_s", "time_since_restore", "time_this_iter_s"), 1.5 * epoch)
    counted = dict.fromkeys(("training_iteration", "iterations_since_restore"), epoch)
    return seconds | counted | {"timestamp": int(time.time()), "pid": os.getpid()}


class RunningSearch:
    """A search that has logged `trials` trials, is still open, and logs two epochs a second."""

    def __init__(self, store: Store, trials: int) -> None:
        self.log = open_search(store, "a thousand")
        began = time.perf_counter()
        for trial in range(trials):
            tell(self.log, f"t{trial:04d}")
        while self.log.num_pending:
            time.sleep(0.05)
        self.seconds = time.perf_counter() - began
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self._thread.start()

    def _go_on(self) -> None:
        epoch = 0
        for trial in ("t9998", "t9999"):
            self.log.start_trial(trial, trial, SETTING)
        while not self._over.wait(1.0):
            epoch += 1
            for trial in ("t9998", "t9999"):
                self.log.log_epoch(trial, epoch, figures(epoch))

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.log.close()


def ask(server: MlflowServer, body: Mapping[str, Any]) -> Any:
    """What the UI's list asks of a server."""
    address = f"{server.uri}/ajax-api/2.0/mlflow/runs/search"
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=120) as answer:
        return json.load(answer)


def list_runs(folder: Path, trials: int, repetitions: int) -> dict[str, Any]:
    """Seconds that the UI's questions take with `trials` trials there, one by one and the whole first page."""
    store = resolve_store(ADDRESS, folder)
    prepare_store(store)
    search = RunningSearch(store, trials)
    try:
        with MlflowServer(folder, database=store.uri) as server:
            first = {"experiment_ids": [experiment_id(store, "benchmark")], "max_results": PAGE}
            first |= {"run_view_type": "ACTIVE_ONLY", "order_by": ["attributes.start_time DESC"]}
            nested = first | {"filter": f"tags.`mlflow.parentRunId` = '{search.log.run_id}'"}
            asked = {
                "the first page": first,
                "of the search": nested,
                "of the search, best first": nested | {"order_by": ["metrics.`val/metric_0` DESC"]},
            }
            for body in asked.values():
                found = len(ask(server, body)["runs"])
                if found != min(PAGE, trials):
                    raise RuntimeError(f"{found} runs")
            taken: dict[str, list[float]] = {name: [] for name in asked}
            for _ in range(repetitions):
                for name, body in asked.items():
                    began = time.perf_counter()
                    ask(server, body)
                    taken[name].append(time.perf_counter() - began)
    finally:
        search.close()
    return {"logging_s": search.seconds, "trials": trials, "list_s": taken}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=2, help="of each side in each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--listed", type=int, default=1000)
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="logging-") as temporary:
        base = Path(temporary)
        sides = Sides(base, asked.trials)
        ways = {
            "ours, told at once": sides.ours,
            "ours, a delivery an epoch": sides.ours_by_epoch,
            BATCHED: sides.batched,
            BUFFERED: sides.buffered,
            STOCK: sides.ray,
        }
        timings = time_pairs(ways, repetitions=asked.turns, warm_up=1)
        sides.check(asked.turns + 1)
        (base / "listed").mkdir()
        listed = list_runs(base / "listed", asked.listed, 5)
    metrics = asked.trials * EPOCHS * len(METRICS)
    held = 1e6 * statistics.median(sides.held[1:]) / metrics
    print(header("Logging trials to MLflow (sqlite)", ["mlflow", "ray"]))
    print(f"Trials of {EPOCHS} epochs x {len(METRICS)} metrics.", end=" ")
    print(f"Load before: {load:.1f}, after: {os.getloadavg()[0]:.1f}\n")
    ratios = {
        name: {of: timing.over(timings[of]) for of in (BATCHED, BUFFERED, STOCK)} for name, timing in timings.items()
    }
    # Of the numbers that it writes, Ray's callback is given those of Tune too.
    more = (len(METRICS) + len(tunes_own(1))) / len(METRICS)
    rows = [
        (
            name,
            f"{statistics.median(timing.times) / asked.trials / 1000:.2f} s",
            f"{1000 * statistics.median(timing.times) / metrics / (more if name in (BUFFERED, STOCK) else 1):.0f} us",
            *(f"{ratio:.3g}" for ratio in ratios[name].values()),
        )
        for name, timing in timings.items()
    ]
    print(table(["", "a trial", "a number written", "of the batches' time", "of the buffered", "of the stock's"], rows))
    print(f"\nOf ours the caller waits for {held:.1f} us a metric; a thread does the rest.\n")
    stored = f"{listed['trials']:,} trials ({listed['trials'] * EPOCHS * len(METRICS):,} metrics) were stored in"
    print(f"{stored} {listed['logging_s']:.0f} s.\nThe UI's list with them there, while the search goes on:\n")
    answers = [
        (name, f"{statistics.median(taken):.2f} s ({min(taken):.2f}-{max(taken):.2f})")
        for name, taken in listed["list_s"].items()
    ]
    print(table([f"{PAGE} runs", f"answered in (to reach: {TARGET_S:g} s)"], answers))
    keep("run_logging", {"ms": {name: timing.times for name, timing in timings.items()}, "ratio": ratios, **listed})


if __name__ == "__main__":
    main()
