"""One real sqlite store for all tests of this room (its schema takes seconds), and a small network to register."""

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.entities import Run
from safetensors.torch import save_file
from support.mlflow_search import Open

from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.tracking.runs import SearchLog
from pipeline.tracking.store import Store, client, experiment_id, prepare_store, resolve_store

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns of its own type hints, once, and here warnings are errors
    import mlflow.pyfunc  # noqa: F401

TINY = ModelConfig(
    "vit_tiny_patch16_224",
    {"patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "xavier",
    0.0,
)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = resolve_store("sqlite:///mlflow.db", tmp_path_factory.mktemp("checkout"))
    prepare_store(made)
    return made


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return f"{request.module.__name__}/{request.node.name}"


@pytest.fixture(autouse=True)
def no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def networks() -> Path:
    """The package of networks of this repository."""
    return Path(__file__).parents[2] / "pipeline" / "models"


@pytest.fixture
def tiny_network() -> Iterator[torch.nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield build_model(TINY, num_classes=3, image_size=(12, 12), channels=1).eval()


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint of a network, with any entry of its sidecar replaced."""

    def write(network: torch.nn.Module, name: str = "checkpoint", **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        save_file(network.state_dict(), folder / "weights.safetensors")
        sidecar = {
            "format": 1,
            # What checkpoints of the first release say, and all that the tests' own packages of networks know.
            "model": {key: asdict(TINY)[key] for key in ("name", "kwargs", "init", "drop_path")},
            "num_classes": 3,
            "image_size": [12, 12],
            "channels": 1,
            "classes": ["zero", "one", "two"],
            "mean": [0.4],
            "std": [0.3],
        }
        (folder / "checkpoint.json").write_text(json.dumps({**sidecar, **changes}))
        return folder

    return write


@pytest.fixture
def open_search(store: Store, experiment: str) -> Open:
    """Opens the same search again and again."""

    def open_it(**changes: Any) -> SearchLog:
        fixed = {
            "experiment": experiment,
            "fingerprint": "1f3a",
            "name": "a search",
            "description": "what it is about",
            "params": {"base.seed": 1},
            "flush_s": 0.02,
        }
        return SearchLog(store, **{**fixed, **changes})

    return open_it


@pytest.fixture
def runs(store: Store, experiment: str) -> Callable[[], dict[str, Run]]:
    """The experiment's runs by their names."""

    def listed() -> dict[str, Run]:
        found = client(store).search_runs([experiment_id(store, experiment)])
        names = [run.info.run_name for run in found]
        assert len(set(names)) == len(names), f"doubled: {names}"
        return dict(zip(names, found, strict=True))

    return listed
