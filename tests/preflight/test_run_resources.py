"""Claims about what retraining takes: a run for which there is no room, or no image, is refused before anything starts."""

from typing import Any

import pytest

from pipeline.cluster.connect import Node
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.preflight.run_resources import check_batch_shards, retrain_resources

NODES = [Node("a", "one", "10.0.0.1", 4, 1), Node("b", "two", "10.0.0.2", 4, 2)]


def params(**settings: Any) -> Params:
    dotted = {f"retrain.{name}": value for name, value in settings.items()}
    return Params().with_values({"search.cluster.address": "10.0.0.1:6379", **dotted}, where="the test")


def test_workers_may_be_on_several_nodes_and_take_a_gpu_each_by_default() -> None:
    found = retrain_resources(params(workers_per_run=3), NODES)
    assert (found.cpus, found.gpus, found.max_concurrent) == (1, 1.0, 3)
    assert found.address == "10.0.0.1:6379"
    assert retrain_resources(params(workers_per_run=4, cpus_per_run=2, gpus_per_run=0), NODES).max_concurrent == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"workers_per_run": 4}, "retrain.workers_per_run: given 4, each with 1 CPUs and 1 GPUs .* room for 3: one: 4 CPUs, 1 GPUs, two: 4 CPUs, 2 GPUs"),
        ({"workers_per_run": 5, "cpus_per_run": 2, "gpus_per_run": 0}, "given 5, each with 2 CPUs and 0 GPUs .* room for 4"),
        ({"workers_per_run": 2, "gpus_per_run": 0.5}, "retrain.gpus_per_run: given 0.5; of several workers .* a GPU of its own"),
        ({"workers_per_run": 2, "seeds_per_worker": 3}, "retrain.seeds_per_worker: given 3, .* retrain.workers_per_run 2"),
        ({"gpus_per_run": 1.5}, "retrain.gpus_per_run: given 1.5; above 1 it must be a whole number"),
        ({"gpus_per_run": 3}, "a retraining run takes 1 CPUs and 3 GPUs .* no machine has as many"),
    ],
)  # fmt: skip
def test_run_that_has_no_room_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        retrain_resources(params(**settings), NODES)


def test_cluster_that_grows_may_have_room_later() -> None:
    growing = params(workers_per_run=8).with_values({"search.max_concurrent_trials": 8}, where="the test")
    assert retrain_resources(growing, NODES).max_concurrent < 8


@pytest.mark.parametrize(
    ("workers", "batch_size", "accumulate", "fits"),
    [(8, 8, 1, True), (9, 8, 1, False), (2, 8, 4, True), (3, 8, 4, False), (1, 1, 64, True)],
)
def test_every_worker_must_have_an_image_of_every_piece(
    workers: int, batch_size: int, accumulate: int, fits: bool
) -> None:
    given = {"batch_size": batch_size, "accumulate": accumulate, "where": "params.yaml"}
    if fits:
        check_batch_shards(workers, **given)
        return
    with pytest.raises(
        UserError, match=f"retrain.workers_per_run: given {workers}, but a batch has {batch_size} images"
    ):
        check_batch_shards(workers, **given)
