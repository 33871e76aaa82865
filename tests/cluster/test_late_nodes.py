"""What keeps runs away from nodes, and how many fit without those."""

import pytest

from pipeline.cluster import connect
from pipeline.cluster.connect import Node, Room
from pipeline.cluster.late_nodes import away_from


def test_selector_names_the_nodes_to_be_kept_away_from() -> None:
    assert away_from([]) == {}
    assert away_from(["cd", "ab"]) == {"ray.io/node-id": "!in(ab,cd)"}


def test_room_on_a_node_that_will_not_do_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Node(name, name, "10.0.0.1", 4, 0) for name in ("good", "bad")]
    monkeypatch.setattr(connect, "nodes", lambda: there)
    room = Room(cpus=2, gpus=0)
    assert room.now() == 4
    assert room.refuse("bad")
    assert not room.refuse("bad")
    assert (room.now(), room.refused) == (2, ["bad"])
