"""Work beside training: one piece at a time, in order, with its errors told and nothing of it lost at the end."""

import threading
from collections.abc import Callable

import pytest
import torch

from pipeline.train import checkpoint_writer as module
from pipeline.train.checkpoint import copy_tensors
from pipeline.train.checkpoint_writer import CheckpointWriter


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


def raising(error: BaseException) -> Callable[[], None]:
    def piece() -> None:
        raise error

    return piece


def test_piece_beside_goes_on_while_its_caller_does(gate: threading.Event) -> None:
    done: list[str] = []
    with CheckpointWriter() as background:
        background.run(lambda: (gate.wait(10), done.append("piece"))[0], beside=True)
        done.append("training")
        gate.set()
    assert done == ["training", "piece"]


def test_piece_not_beside_is_done_when_the_call_returns() -> None:
    done: list[int] = []
    background = CheckpointWriter()
    background.run(lambda: done.append(threading.get_ident()), beside=False)
    assert done == [threading.get_ident()]


@pytest.mark.parametrize("beside", [False, True])
def test_next_piece_waits_for_the_one_before(gate: threading.Event, beside: bool) -> None:
    done: list[str] = []
    threading.Timer(0.1, gate.set).start()
    with CheckpointWriter() as background:
        background.run(lambda: (gate.wait(10), done.append("first"))[0], beside=True)
        background.run(lambda: done.append("second"), beside=beside)
    assert done == ["first", "second"]


@pytest.mark.parametrize("error", [OSError("the disk is full"), SystemExit(0)])
def test_error_of_a_piece_is_raised_by_what_is_asked_next(error: BaseException) -> None:
    asked: list[Callable[[CheckpointWriter], object]] = [
        lambda background: background.run(lambda: pytest.fail("not to be done"), beside=False),
        lambda background: background.is_worth_a_thread(1.0),
        lambda background: background.wait(),
        lambda background: background.__exit__(None, None, None),
    ]
    for ask in asked:
        background = CheckpointWriter()
        background.run(raising(error), beside=True)
        with pytest.raises(type(error)):
            ask(background)
        background.wait()  # it is told once


def diverging_beside(error: BaseException) -> None:
    with CheckpointWriter() as background:
        background.run(raising(error), beside=True)
        raise ValueError("diverged")


def test_error_of_training_is_told_before_that_of_a_piece() -> None:
    with pytest.raises(ValueError, match="diverged"):
        diverging_beside(OSError("the disk is full"))


def test_end_of_the_trial_that_a_piece_was_told_comes_before_all() -> None:
    with pytest.raises(SystemExit):
        diverging_beside(SystemExit(0))


@pytest.mark.parametrize(("took", "epoch", "pays"), [(0.01, 0.1, False), (0.3, 5.0, True), (0.3, 60.0, False), (2.0, 60.0, True)])  # fmt: skip
def test_thread_pays_for_pieces_that_take_long_by_themselves_and_beside_the_epoch(
    monkeypatch: pytest.MonkeyPatch, took: float, epoch: float, pays: bool
) -> None:
    times = iter([100.0, 100.0 + took])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    background = CheckpointWriter()
    background.run(lambda: None, beside=False)
    assert background.is_worth_a_thread(epoch) is pays


def test_nothing_pays_before_the_first_piece_was_timed() -> None:
    assert not CheckpointWriter().is_worth_a_thread(1.0)


def test_copies_of_tensors_stay_as_they_were() -> None:
    weight = torch.ones(2, requires_grad=True)
    tree = {
        "state": {0: {"exp_avg": weight, "step": torch.tensor(3.0)}},
        "groups": [{"betas": (0.9, 0.99), "lr": None}],
    }
    copy = copy_tensors(tree)
    with torch.no_grad():
        weight.add_(1)
    assert copy["groups"] == [{"betas": (0.9, 0.99), "lr": None}]
    assert torch.equal(copy["state"][0]["exp_avg"], torch.ones(2))
    assert not copy["state"][0]["exp_avg"].requires_grad
