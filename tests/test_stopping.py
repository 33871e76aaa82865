"""A real search, interrupted and asked to finish from another terminal."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkout import TINY, Checkout

from pipeline.state.searches import SearchState, find_searches
from pipeline.tune.journal.records import METHOD

SMALL = TINY | {"train.epochs": 4, "search.trials": 40, "search.confirm.seeds": 1, "search.max_concurrent_trials": 1}


def _wait_for(checkout: Checkout, process: "subprocess.Popen[str]", seen: Callable[[SearchState], bool]) -> None:
    """Wait until the search runs and shows something."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        for search in find_searches(checkout.root / "state" / "searches").searches:
            if search.runner() is not None and seen(search):
                return
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.2)
    raise AssertionError("the search did not come that far")


def _of_method(search: SearchState, *states: str | None) -> int:
    return sum(trial.study == METHOD and trial.state in states for trial in search.trials)


@pytest.mark.slow
def test_search_is_stopped_goes_on_and_finishes_when_asked(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, SMALL)
    checkout.repro("split")

    process = checkout.start("dvc", "repro", "search")
    _wait_for(checkout, process, lambda search: bool(search.history.reports))
    assert "running" in checkout.search("status").stdout
    done = checkout.search("stop")
    assert done.returncode == 0, done.stderr
    assert "`make repro`" in done.stdout
    said = process.communicate(timeout=60)[0]
    assert "interrupted; what had finished is kept" in said
    assert "Traceback" not in said
    assert "unfinished" in checkout.search("status").stdout
    assert not (tmp_path / "results" / "search" / "best.yaml").exists()

    process = checkout.start("dvc", "repro", "search")
    _wait_for(checkout, process, lambda search: search.history.sessions == 2 and _of_method(search, "complete") > 0)
    done = checkout.search("stop", "--finish")
    assert done.returncode == 0, done.stderr
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said[-4000:]
    # A trial may just have been paused, or have ended.
    assert "ending early: sar-search stop --finish. " in said
    assert "ended early by sar-search stop --finish" in said
    (search,) = find_searches(tmp_path / "state" / "searches").searches
    assert 0 < _of_method(search, "complete", "pruned", "failed", None) < 40
    assert not search.open_trials
    assert (tmp_path / "results" / "search" / "best.yaml").exists()
    assert "ended" in checkout.search("status").stdout
