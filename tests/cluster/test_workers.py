"""Claims about several runs of several workers: how many go at a time, what their failure does, how they reach each other."""

import threading

import pytest

from pipeline.cluster.workers import interface_of, side_by_side
from pipeline.errors import UserError


def test_as_many_runs_go_at_a_time_as_there_is_room_for_and_one_at_least() -> None:
    lock, going, most = threading.Lock(), 0, 0
    room = iter([2, 2, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0])

    def work(job: int) -> None:
        nonlocal going, most
        with lock:
            going += 1
            most = max(most, going)
        threading.Event().wait(0.02)
        with lock:
            going -= 1

    assert sorted(side_by_side(work, range(6), lambda: next(room))) == list(range(6))
    assert 2 <= most <= 3


def test_failure_of_a_run_is_told_as_it_was_raised() -> None:
    def work(job: int) -> None:
        if job == 1:
            raise UserError("retraining best-seed1: out of memory")

    with pytest.raises(UserError, match=r"^retraining best-seed1: out of memory$"):
        list(side_by_side(work, range(3), lambda: 1))


def test_network_interface_is_found_by_its_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None
