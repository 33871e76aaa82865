"""What is said of a node that is not as it should be, by what it reports of itself."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.connect import Node
from pipeline.cluster.data_bundle import DataBundle
from pipeline.cluster.nodes import NodeReport, NodeRequirements, NodeResult, find_problems

HERE = {"processor": "x86_64", "Python": "3.12.1", "torch": "2.15.0"}
NODE = Node("ab" * 14, "far (10.0.0.2, ababab)", "10.0.0.2", 8, 0)
GOOD = NodeReport(
    versions=HERE, code="c0de", clock=1000.0, free=10**11, temporary="/tmp", cuda=0, data=True, token="", wrote=None
)
PARCEL = DataBundle("key", {"images.npy": Path("images.npy")}, {"images.npy": 5 * 10**9}, {})


def _said(*, sendable: bool = True, gpus: float = 0.0, there: float = 0.0, **seen: Any) -> list[str]:
    node = dataclasses.replace(NODE, gpus=there)
    answer = NodeResult(node, dataclasses.replace(GOOD, **seen), "", asked=990.0, answered=1010.0)
    return find_problems([answer], NodeRequirements(PARCEL, "/shared", sendable, gpus), here=HERE, code="c0de")


def test_good_node_gives_no_line() -> None:
    assert _said() == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"versions": HERE | {"Python": "3.11.9"}}, "Python 3.11.9 there, 3.12.1 here"),
        ({"versions": {"Python": "3.12.1"}}, "torch is missing there, 2.15.0 here"),
        (
            {"versions": HERE | {"processor": "aarch64"}},
            "its processor is aarch64, that of this machine is x86_64, and they round differently; leave the node out",
        ),
        ({"code": "0ther"}, "it has another version of the package `pipeline` (0ther there, c0de here)"),
        ({"clock": 1010.0 + 7200}, "its clock is off by 120 minutes"),
        ({"clock": 990.0 - 7200}, "its clock is off by 120 minutes"),
        ({"token": "cannot be read: No such file or directory"}, "/shared: cannot be read: No such file or directory"),
        (
            {"token": "is not the same place there"},
            "/shared: is not the same place there; checkpoints must go where every node sees them",
        ),
        ({"wrote": "Read-only file system"}, "/shared: cannot be written there (Read-only file system)"),
        ({"data": False, "sendable": False}, "it does not have the data"),
        ({"free": 10**8}, "/tmp: 100 MB free, 200 MB needed"),
        ({"free": 10**9, "data": False}, "/tmp: 1,000 MB free, 5,200 MB needed"),
        ({"gpus": 1.0, "there": 2.0, "cuda": 0}, "Ray counts 2 GPUs there, but torch sees none"),
    ],
)
def test_fault_is_told_with_the_node_it_is_of(seen: dict[str, Any], words: str) -> None:
    (said,) = _said(**seen)
    assert said.startswith("far (10.0.0.2, ababab): ")
    assert words in said


def test_clock_that_is_off_by_less_than_a_minute_is_none_of_ours() -> None:
    assert _said(clock=1050.0) == []


def test_node_that_says_nothing_is_told() -> None:
    answer = NodeResult(NODE, None, "has not answered within 120 s", 0.0, 0.0)
    said = find_problems([answer], NodeRequirements(PARCEL, "/shared", True, 0.0), here=HERE, code="c0de")
    assert said == ["far (10.0.0.2, ababab): has not answered within 120 s"]
