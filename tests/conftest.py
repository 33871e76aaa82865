"""What all tests share: one thread, so that timings and results do not depend on the machine; and a limit of time."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

os.environ["OMP_NUM_THREADS"] = "1"
hypothesis.settings.register_profile("same draws", derandomize=True, database=None)
hypothesis.settings.load_profile("same draws")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background so, and all that tests start would have it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_tracking_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracking server that the developer uses must not get the tests' runs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)  # nor a cluster their trials


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws is the same alone, after others and in every process: none fails by a rare draw."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small train many times slower on several threads where other work runs beside them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


LONGEST = ("test_kills.py", "test_own_images.py", "test_pipeline.py", "test_runner.py")
"""Files are shared out among processes in this order, so that none of the long ones comes last and alone."""


ALWAYS = ("test_kills.py",)
"""Under a limit of time this comes first; the others take turns."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--within",
        type=float,
        metavar="SECONDS",
        help="begin no file of tests after so long; which files come first, the hour says",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes of `-n auto`: as many as may run, which a container's quota decides as well."""
    from pipeline.compute.limits import usable_cpus

    return usable_cpus()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files come first. Tests that need a GPU are skipped, with the reason, where there is none."""
    order = list(LONGEST)
    if config.getoption("within") is not None:
        files = sorted({item.path for item in items})
        turn = int(time.time() // 3600) * 7 % max(1, len(files))
        order = [*ALWAYS, *(path.name for path in files[turn:] + files[:turn] if path.name not in ALWAYS)]
    items.sort(key=lambda item: order.index(item.path.name) if item.path.name in order else len(order))
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none here"))


STARTED = time.monotonic()
BEGUN = set[Path]()
"""Files of which a test has run."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Under a limit of time a file that has begun is ended: what it checks last may be what the rest was for."""
    within = item.config.getoption("within")
    if within is not None and item.path not in BEGUN and time.monotonic() - STARTED > within:
        pytest.skip(f"not begun within {within:.0f} s; `make test-slow` runs all")
    BEGUN.add(item.path)
