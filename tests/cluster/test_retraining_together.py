"""Claims about retraining by Ray: one run over several workers is the run of one, and goes on where it was."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.prepared_digits import write_digits

from pipeline.assembly import load_data, load_trained
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.stages.retrain.retrain_runs import learning_curves, retrain_jobs, run_retraining
from pipeline.stages.retrain.worker import HISTORY, RetrainJob
from pipeline.train.loop import predict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {
    "base.device": "cpu",
    "model.kwargs": {"patch_size": 3, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "model.drop_path": 0.0,
    "regularizer.spatial_entropy.weight": 0.1,
    "retrain.seeds": 1,
    "search.max_failures": 1,
    "train.epochs": 6,
    "train.batch_size": 25,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("data"), train_fraction=0.3)


def jobs_of(data: Path, state: Path, **settings: Any) -> tuple[Params, list[RetrainJob]]:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    params = Params().with_values(SETTINGS | dotted, where="the test")
    given: dict[str, Any] = {"prepared": data / "prepared", "split": data / "split.json", "hashes": [], "state": state}
    return params, retrain_jobs(params, {"best": {}}, seeds=params.retrain.seed_bounds[0], **given)


def retrained(data: Path, state: Path, **settings: Any) -> RetrainJob:
    params, jobs = jobs_of(data, state, **settings)
    (job,) = run_retraining(params, jobs)
    assert not list((state / "retrain" / "ray").glob("*/epoch-*"))  # what it went on from is gone
    return job


def accuracy(job: RetrainJob) -> float:
    data = load_data(job.prepared, job.split, "cpu")
    model, _ = load_trained(job.folder, torch.device("cpu"))
    test = data.batches("test", scaled_by="train+val")
    answers = torch.cat([labels for _, labels in test.in_order(256)])
    return float((predict(model, test).argmax(-1) == answers).double().mean())


def weights(job: RetrainJob) -> dict[str, torch.Tensor]:
    """All but the keys' biases: softmax does not see them, and Adam makes whole steps of the rounding in 0."""
    width = 16
    return {
        name: torch.cat([each[:width], each[2 * width :]]) if "qkv.bias" in name else each
        for name, each in load_file(job.folder / "weights.safetensors").items()
    }


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RetrainJob:
    return retrained(data, tmp_path_factory.mktemp("alone"))


def assert_same(one: RetrainJob, other: RetrainJob, **tolerance: float) -> None:
    for first, second in zip(learning_curves(one.folder), learning_curves(other.folder), strict=True):
        assert second == pytest.approx(first, rel=1e-3, abs=1e-4)
    assert accuracy(one) == accuracy(other)
    assert one.folder.name != other.folder.name or one.folder == other.folder


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_workers_retrain_what_one_retrains(accumulate: int, data: Path, alone: RetrainJob, tmp_path: Path) -> None:
    both = retrained(data, tmp_path, retrain__workers_per_run=2, train__accumulate=accumulate)
    assert_same(alone, both)
    assert accuracy(both) > 0.5
    torch.testing.assert_close(weights(both), weights(alone), rtol=1e-2, atol=1e-3)


def test_run_of_two_workers_whose_worker_is_killed_goes_on_from_its_last_epoch(
    data: Path, alone: RetrainJob, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"retrain__workers_per_run": 2, "train__epochs": 6}
    _, (job,) = jobs_of(data, tmp_path, **settings)
    killed = Thread(target=when_kept, args=(job, 2, kill_a_worker), daemon=True)
    killed.start()
    again = retrained(data, tmp_path, **settings)
    parts = json.loads((again.folder / HISTORY).read_text())["parts"]
    assert len(parts) == 2
    assert parts[1]["after"] >= 2
    assert_same(alone, again)


def test_what_a_user_must_change_is_told_and_is_no_loss_of_a_worker(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"retraining best-seed1: the training loss .* not finite in epoch 1"):
        retrained(data, tmp_path, retrain__workers_per_run=2, train__lr=10.0, train__optimizer="sgd")


def when_kept(job: RetrainJob, epoch: int, act: Callable[[], None]) -> None:
    """Do something as soon as a run has a checkpoint of an epoch."""
    place = job.folder.parent / "ray" / job.folder.name
    while not (place / f"epoch-{epoch:06d}" / "checkpoint.json").exists():
        if list(place.glob(f"epoch-{epoch + 1:06d}/checkpoint.json")):
            break
        time.sleep(0.005)
    act()


def kill_a_worker() -> None:
    """SIGKILL one process of this user that trains, a child of this one's Ray."""
    import psutil

    mine = psutil.Process().children(recursive=True)
    training = [each for each in mine if "RayTrainWorker" in " ".join(each.cmdline())]
    os.kill(training[0].pid, 9)
