"""What a trial and a report cost the driver of a search on a Ray cluster: trials that do nothing, on local nodes.

Run: python benchmarks/cluster_overhead.py [--nodes 3] [--trials 100 400]

The driver is the stage's own: journal, study, rungs, Ray Tune. Its trials report made-up results and small checkpoints,
and train nothing. Figures are the driver's processor seconds, which a busy machine changes little; two numbers of
reports a trial tell the trial's own cost from that of a report. Workers are processes of this machine, so the seconds
that pass say nothing of a real cluster. There is no other side: Ray Tune's own part is in the figures.
"""

import argparse
import dataclasses
import os
import resource
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import header, keep, table
from kills.clone import Clone
from ray import tune

from pipeline.cluster.runtime import QUIET
from pipeline.preflight.plan import Plan, make_plan
from pipeline.tune.ray import runner
from pipeline.workspace import find_workspace

EPOCHS = (1, 5)


def no_trial(config: Mapping[str, Any], task: Any) -> None:
    """Reports what a trial reports, with a checkpoint of a few bytes, and trains nothing."""
    for epoch in range(1, task.params["train"]["epochs"] + 1):
        metrics = {"val/accuracy": 0.5 + 0.001 * epoch, "val/loss": 0.5, "train/loss": 0.5, "seconds": 0.0}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state").write_bytes(b"nothing")
            tune.report(
                {"epoch": epoch, "objective": 0.5, "metrics": metrics, "failed": None},
                checkpoint=tune.Checkpoint.from_directory(folder),
            )


@contextmanager
def cluster(nodes: int, cpus: int) -> Iterator[str]:
    """The address of a cluster of so many nodes, processes of this machine, beside a head that runs nothing."""
    os.environ.update(QUIET | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    from ray._private.authentication_test_utils import reset_auth_token_state
    from ray.cluster_utils import Cluster

    reset_auth_token_state()
    with tempfile.TemporaryDirectory(prefix="n", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for number in range(nodes):
                made.add_node(num_cpus=cpus, temp_dir=f"{folder}/{number}")
            yield str(made.address)
        finally:
            made.shutdown()  # type: ignore[no-untyped-call]


def driver_seconds(
    plan: Plan, address: str, folder: Path, trials: int, epochs: int, at_a_time: int
) -> tuple[float, float]:
    """(processor seconds of the driver, seconds that passed) of a search of so many trials, start and end included."""
    task = plan.task()
    params = task.params.with_values(
        {"search.trials": trials, "search.budget.full_trainings": None, "train.epochs": epochs}, where="the benchmark"
    )
    resources = dataclasses.replace(task.resources, address=address, max_concurrent=at_a_time)
    task = dataclasses.replace(task, params=params, resources=resources, folder=folder)
    began, passed = time.process_time(), time.perf_counter()
    outcome = runner.run_search(task, [])
    assert len(outcome.trials) == trials + len(task.space.controls)
    return time.process_time() - began, time.perf_counter() - passed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2, help="of a node, each of which runs a trial")
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 400])
    asked = parser.parse_args()
    runner.enter_trial = no_trial  # type: ignore[attr-defined]
    rows, kept = [], {}
    settings = {"search.scheduler.name": "none", "search.confirm.seeds": 0, "search.sampler.name": "random"}
    with tempfile.TemporaryDirectory(prefix="overhead-") as temporary, cluster(asked.nodes, asked.cpus) as address:
        clone = Clone(Path(temporary) / "clone", settings)
        if clone.run(["dvc", "repro", "split"]):
            raise SystemExit(clone.log.read_text()[-2000:])
        plan = make_plan(find_workspace(Path(temporary) / "clone"))
        for trials in asked.trials:
            spent = {}
            for epochs in EPOCHS:
                folder = Path(temporary) / f"{trials}-{epochs}"
                spent[epochs], passed = driver_seconds(plan, address, folder, trials, epochs, asked.nodes * asked.cpus)
            report = (spent[EPOCHS[1]] - spent[EPOCHS[0]]) / (trials * (EPOCHS[1] - EPOCHS[0]))
            trial = spent[EPOCHS[0]] / trials - report
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append(
                (trials, f"{1000 * trial:.0f} ms", f"{1000 * report:.1f} ms", f"{passed:.0f} s", f"{memory:.0f} MB")
            )
            kept[str(trials)] = {"trial_s": round(trial, 4), "report_s": round(report, 5), "peak_mb": round(memory)}
            print(rows[-1], os.getloadavg(), flush=True)
    print(header(f"What a trial costs the driver, {asked.nodes} nodes", ["ray", "optuna"]))
    print(
        table(["trials", "a trial", "a report with its checkpoint", "passed, 5 reports a trial", "peak memory"], rows)
    )
    keep("cluster_overhead", kept)


if __name__ == "__main__":
    main()
