"""Addresses of clusters that cannot be joined, and how many runs fit on a node."""

import pytest

from pipeline.cluster.connect import Node, cluster_address, connect_to_cluster, nodes
from pipeline.cluster.runtime import local_ray
from pipeline.errors import UserError


def test_cluster_that_does_not_answer_is_told_at_once() -> None:
    with (
        pytest.raises(UserError, match=r"search\.cluster\.address: 127\.0\.0\.1:1: nothing answers"),
        connect_to_cluster("127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize("address", ["head", "head:", "head:port", "ray://head:10001", ":99999"])
def test_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(UserError, match="allowed: auto, or the head's host:port"), connect_to_cluster(address):
        pass


def test_address_asked_for_comes_before_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster_address(None) == "head:6379"
    assert cluster_address("auto") == "auto"


@pytest.mark.slow
def test_ray_of_this_machine_alone_is_started_whatever_cluster_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with local_ray(1, 0):
        assert [node.cpus for node in nodes()] == [1.0]


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "fit"),
    [
        (8, 0, (1, 0), 8),
        (8, 2, (1, 0.25), 8),
        (8, 1, (1, 0.3), 3),
        (8, 0, (1, 1), 0),
        (3, 4, (2, 1), 1),
        (4, 2, (1, 2), 1),
    ],
)
def test_as_many_runs_fit_on_a_node_as_the_scarcer_of_its_resources_allows(
    cpus: float, gpus: float, asked: tuple[int, float], fit: int
) -> None:
    assert Node("id", "name", "10.0.0.1", cpus, gpus).fit(*asked) == fit
