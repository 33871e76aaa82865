"""A Ray cluster of a test's own, whose nodes are processes of this machine."""

import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.runtime import QUIET


class Nodes:
    """A cluster of this test's own: a head that runs no trials, and workers with a CPU core each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        # Nodes of one machine would unpack code into one folder, and remove it under each other's feet.
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        self._odd: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def folders(self) -> list[Path]:
        """Where the workers' own Ray keeps its files, logs among them."""
        return [Path(folder.name) for folder in self._folders]

    def join(self, **arguments: Any) -> Any:
        """Another worker; one with arguments is not as the others, and goes with the test that had it join."""
        self._folders.append(tempfile.TemporaryDirectory(prefix="n", dir="/tmp", ignore_cleanup_errors=True))
        node = self._cluster.add_node(num_cpus=1, temp_dir=self._folders[-1].name, **arguments)
        if arguments:
            self._odd.append(node)
        return node

    def kill(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def leave_only(self, count: int) -> list[Any]:
        """Have exactly so many workers, all alike."""
        every = list(self._cluster.worker_nodes)
        there = [node for node in every if node not in self._odd]
        for node in [*there[count:], *(node for node in every if node in self._odd)]:
            self.kill(node)
        left = there[:count] + [self.join() for _ in range(count - len(there))]
        self._cluster.wait_for_nodes(timeout=60)  # those that were killed are known to be dead
        return left

    def drain(self, node: Any) -> None:
        """Tell the cluster that a node is about to be taken away, as a spot instance's notice does."""
        from ray._private.worker import global_worker
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = global_worker.gcs_client.drain_node(
            node.node_id, reason, "taken away", int(1000 * (time.time() + 60))
        )
        assert accepted, why

    def end(self) -> None:
        self._cluster.shutdown()
        for folder in self._folders:
            folder.cleanup()


@pytest.fixture(scope="module", name="nodes")
def nodes_of_this_machine() -> Iterator[Nodes]:
    from ray._private.authentication_test_utils import reset_auth_token_state

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
            patch.setenv(name, value)
        # Nodes that are killed are noticed within seconds, not half a minute.
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        reset_auth_token_state()
        cluster = Nodes()
        try:
            yield cluster
        finally:
            cluster.end()
    reset_auth_token_state()
