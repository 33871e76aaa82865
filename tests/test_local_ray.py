"""A Ray of the search's own, whatever else runs on the machine."""

import pytest
import ray

from pipeline.cluster.runtime import local_ray


@pytest.mark.slow
def test_a_cluster_that_is_named_in_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6")
    with local_ray(cpus=1, gpus=0):
        assert ray.cluster_resources()["CPU"] == 1
