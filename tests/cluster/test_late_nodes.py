"""What keeps runs away from nodes, and how many fit without those."""

import pytest

from pipeline.cluster import connect
from pipeline.cluster.connect import Capacity, Node
from pipeline.cluster.late_nodes import exclude_selector


def test_selector_names_the_nodes_to_be_kept_away_from() -> None:
    assert exclude_selector([]) == {}
    assert exclude_selector(["cd", "ab"]) == {"ray.io/node-id": "!in(ab,cd)"}


def test_room_on_a_node_that_will_not_do_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Node(name, name, "10.0.0.1", 4, 0) for name in ("good", "bad")]
    monkeypatch.setattr(connect, "nodes", lambda: there)
    room = Capacity(cpus=2, gpus=0)
    assert room.free_slots() == 4
    assert room.exclude_node("bad")
    assert not room.exclude_node("bad")
    assert (room.free_slots(), room.excluded) == (2, ["bad"])
