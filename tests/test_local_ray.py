"""A Ray of the search's own, whatever else runs on the machine."""

import pytest
import ray

from pipeline.cluster import runtime
from pipeline.cluster.runtime import local_ray


def test_store_of_objects_keeps_within_a_limit_that_ray_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "usable_memory", lambda: 2**30)
    assert runtime._object_store_bytes() == int(0.3 * 2**30)
    monkeypatch.setattr(runtime, "usable_memory", lambda: 2**60)
    assert runtime._object_store_bytes() is None  # Ray's own choice, which knows of /dev/shm


@pytest.mark.slow
def test_a_cluster_that_is_named_in_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6")
    with local_ray(cpus=1, gpus=0):
        assert ray.cluster_resources()["CPU"] == 1
