"""What tests of the check share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.checkout import TINY
from support.example_plans import DIGITS, SPACE

from pipeline.config import Params
from pipeline.models.architecture import Architecture
from pipeline.preflight import profile, profile_budget
from pipeline.preflight.dry_run import Network
from pipeline.preflight.plan import Plan
from pipeline.tune.task import Resources
from pipeline.workspace import Workspace


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """A plan over a checkout that has nothing yet, with some parameters changed."""

    def make(changes: dict[str, Any] | None = None, **parts: Any) -> Plan:
        given: dict[str, Any] = {
            "workspace": Workspace(tmp_path, tmp_path),
            "params": Params().with_values(
                {"base.device": "cpu", "train.batch_size": 64, **TINY, **(changes or {})}, where="the test"
            ),
            "space": SPACE,
            "resources": Resources(cpus=1, gpus=0.0, max_concurrent=2, machine_cpus=2, machine_gpus=0),
            "store": SimpleNamespace(),
            "device": "cpu",
            "source": DIGITS,
            "network": Network(1, 1, Architecture("vit", 3, (6, 6), (4, 4), 1, True, range(3), 16, (1, 24, 24))),
        }
        return Plan(**(given | parts))

    return make


@pytest.fixture
def quick_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two timed calls a setting are enough for tests, and none is hurried, however busy the machine is."""
    monkeypatch.setattr(profile, "BUDGET_S", 0.0)
    monkeypatch.setattr(profile_budget, "MOST_S", 1e9)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
