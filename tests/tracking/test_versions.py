"""A registered model loads where this repository is not, is registered once, and becomes champion with a trail."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.tracking.registry.package import hash_model, require_portable
from pipeline.tracking.registry.versions import Registered, register_model, versions
from pipeline.tracking.single_run import log_run
from pipeline.tracking.store import Store, client, experiment_id

Write = Callable[..., Path]

EXAMPLE = np.random.default_rng(1).integers(0, 256, (3, 12, 12, 1), dtype=np.uint8)

BUILD = """
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class ModelConfig:
    name: str
    kwargs: dict
    init: str
    drop_path: float

def build_model(config, *, num_classes, image_size, channels):
    pixels = image_size[0] * image_size[1] * channels
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, num_classes))
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A package of networks that needs no seconds to import."""
    folder = tmp_path / "networks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "build.py").write_text(BUILD)
    return folder


@pytest.fixture
def linear() -> torch.nn.Module:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return network


def scale(network: torch.nn.Module, factor: float) -> torch.nn.Module:
    for parameter in network.parameters():
        parameter.data *= factor
    return network


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model's name that no other test uses."""
    return str(request.node.name).removeprefix("test_").partition("[")[0]


@pytest.fixture
def register(
    store: Store, name: str, code: Path, linear: torch.nn.Module, write_checkpoint: Write
) -> Callable[..., Registered]:
    """Registers the small network, with anything replaced."""
    made: list[Path] = []

    def registered(**changes: Any) -> Registered:
        if not made:
            made.append(write_checkpoint(linear))
        fixed = {
            "name": name,
            "checkpoint": made[0],
            "code": code,
            "model_card": "# Card",
            "tags": {"data_hash": "9a"},
            "run_id": None,
            "input_example": EXAMPLE,
        }
        return register_model(store, **{**fixed, **changes})

    return registered


ELSEWHERE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pipeline", "ray", "dvc", "optuna"):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
import json
import mlflow
import numpy as np

answer = mlflow.pyfunc.load_model(sys.argv[1]).predict(np.load(sys.argv[2]), params={"batch_size": 2})
assert "pipeline" not in sys.modules
json.dump(answer.to_dict("records"), open(sys.argv[3], "w"))
"""


@pytest.mark.slow
def test_a_registered_model_loads_where_nothing_of_this_repository_is(
    store: Store, name: str, networks: Path, tiny_network: torch.nn.Module, write_checkpoint: Write, tmp_path: Path
) -> None:
    run_id = log_run(store, experiment=name, key="retrain", name="seed 0", params={}, metrics={})
    made = register_model(
        store,
        name=name,
        checkpoint=write_checkpoint(tiny_network),
        code=networks,
        model_card="# Card",
        tags={},
        run_id=run_id,
        input_example=EXAMPLE,
    )
    assert client(store).get_model_version(name, str(made.version)).run_id == run_id
    outputs = client(store).get_run(run_id).outputs
    assert outputs
    assert len(outputs.model_outputs) == 1
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    np.save(tmp_path / "images.npy", EXAMPLE)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW"))}
    subprocess.run(
        [
            sys.executable,
            "-c",
            ELSEWHERE,
            f"models:/{name}@challenger",
            tmp_path / "images.npy",
            tmp_path / "answer.json",
        ],
        cwd=empty,
        env={**environment, "MLFLOW_TRACKING_URI": store.uri, "MLFLOW_DISABLE_TELEMETRY": "true"},
        check=True,
        timeout=300,
    )
    rows = json.loads((tmp_path / "answer.json").read_text())
    with torch.inference_mode():
        expected = tiny_network((torch.tensor(EXAMPLE).permute(0, 3, 1, 2) / 255 - 0.4) / 0.3).softmax(1)
    found = torch.tensor([[row["probabilities"][each] for each in ("zero", "one", "two")] for row in rows])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert [row["name"] for row in rows] == [("zero", "one", "two")[k] for k in expected.argmax(1)]
    assert list(empty.iterdir()) == []


def test_a_first_version_is_challenger_with_its_card_tags_and_pinned_packages(
    store: Store, name: str, register: Callable[..., Registered], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = register()
    (listed,) = versions(store, name)
    assert (made.version, made.uri, made.new) == (1, f"models:/{name}/1", True)
    assert listed.aliases == ("challenger",)
    assert listed.tags == {"data_hash": "9a", "sar.model_hash": made.model_hash}
    assert listed.description == "# Card"
    assert abs(datetime.now(UTC) - listed.created) < timedelta(minutes=5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    folder = Path(mlflow.artifacts.download_artifacts(made.uri))
    assert {each.name for each in (folder / "artifacts").iterdir()} == {
        "checkpoint",
        "code",
        "README.md",
        "pictures.py",
    }
    assert json.loads((folder / "input_example.json").read_text()) == EXAMPLE[:2].tolist()
    assert not list(folder.rglob("__pycache__"))
    pinned = dict(line.split("==") for line in (folder / "requirements.txt").read_text().split())
    assert pinned.keys() == {"mlflow", "torch", "torchvision", "timm", "safetensors", "pillow", "numpy", "pandas"}
    assert installed("torch").startswith(pinned["torch"])
    assert "+" not in "".join(pinned.values())


@pytest.mark.parametrize("binned", [False, True])
def test_a_model_whose_run_is_gone_belongs_to_none(
    binned: bool, store: Store, name: str, register: Callable[..., Registered]
) -> None:
    run_id, name = "0" * 32, f"{name}_{binned}"
    if binned:
        runs = client(store)
        run_id = runs.create_run(experiment_id(store, name)).info.run_id
        runs.delete_run(run_id)
    made = register(run_id=run_id, name=name)
    (listed,) = versions(store, name)
    assert (made.lost_run, listed.run_id, listed.aliases) == (run_id, None, ("challenger",))


def test_registering_leaves_mlflows_global_store_as_it_was(register: Callable[..., Registered]) -> None:
    before = mlflow.get_tracking_uri()
    register()
    assert mlflow.get_tracking_uri() == before
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_input_is_checked_against_the_signature(
    store: Store, register: Callable[..., Registered], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    model = mlflow.pyfunc.load_model(register().uri)
    assert list(model.predict(EXAMPLE[:, :7, :5]).columns) == ["name", "probability", "probabilities", "error"]
    assert len(model.predict(EXAMPLE, params={"batch_size": 1})) == 3
    with pytest.raises(ValueError, match="0 to 255, not float32"):
        model.predict(EXAMPLE.astype(np.float32))
    with pytest.raises(ValueError, match=r"not \(3, 12, 12, 3\)"):
        model.predict(EXAMPLE.repeat(3, axis=-1))
    with pytest.raises(MlflowException, match="batch_size"):
        model.predict(EXAMPLE, params={"batch_size": "many"})
    outputs = model.metadata.get_output_schema().input_names()
    assert outputs == ["name", "probability", "probabilities", "error", "attention"]
    assert model.metadata.get_params_schema().to_dict()[1]["name"] == "attention"


def test_the_same_model_gets_no_second_version(
    store: Store, name: str, register: Callable[..., Registered], code: Path
) -> None:
    first = register()
    (code / "more.py").write_text("x = 1\n")
    second = register()
    assert [each.aliases for each in versions(store, name)] == [(), ("challenger",)]
    (code / "more.py").unlink()
    again = register(tags={"data_hash": "77"}, model_card="# New card")
    assert (again.version, again.model_hash, again.new) == (first.version, first.model_hash, False)
    assert second.version == 2
    assert [each.aliases for each in versions(store, name)] == [("challenger",), ()]
    assert versions(store, name)[0].tags["data_hash"] == "77"
    assert versions(store, name)[0].description == "# New card"


def test_whatever_decides_the_answers_decides_the_hash(
    code: Path, linear: torch.nn.Module, write_checkpoint: Write
) -> None:
    same = [write_checkpoint(linear, "a"), write_checkpoint(linear, "b")]
    assert hash_model(same[0], code) == hash_model(same[1], code)
    hashes = {hash_model(same[0], code)}
    hashes.add(hash_model(write_checkpoint(linear, "c", mean=[0.5]), code))
    hashes.add(hash_model(write_checkpoint(scale(linear, 2.0), "d"), code))
    (code / "build.py").write_text(BUILD + "\n")
    hashes.add(hash_model(same[0], code))
    assert len(hashes) == 4
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "build.pyc").write_text("")
    assert hash_model(same[0], code) in hashes


@pytest.mark.parametrize(
    "line",
    ["import ray.tune", "from pipeline.errors import UserError", "from ..errors import UserError", "import yaml, json"],
)
def test_code_that_would_not_load_elsewhere_is_refused(
    line: str, code: Path, register: Callable[..., Registered]
) -> None:
    (code / "build.py").write_text(f"import math\nfrom . import __init__\n\n\n{line}\n{BUILD}")
    with pytest.raises(UserError, match=r"build.py, line 5 imports (ray|pipeline|\.\.errors|yaml)"):
        register()


def test_the_networks_of_this_repository_are_portable(networks: Path) -> None:
    require_portable(networks)


def test_a_checkpoint_that_makes_no_model_gets_no_version(
    store: Store, name: str, register: Callable[..., Registered], linear: torch.nn.Module, write_checkpoint: Write
) -> None:
    with pytest.raises(UserError, match="does not classify example images: the weights do not belong"):
        register(checkpoint=write_checkpoint(linear, "four", num_classes=4, classes=list("abcd")))
    with pytest.raises(UserError, match="no numbers"):
        register(checkpoint=write_checkpoint(scale(linear, math.nan), "nan"))
    assert versions(store, name) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": ["one", "one", "two"]}, "2 different names"),
        ({"mean": [0.5, 0.5]}, "mean has 2 values instead of 1"),
        ({"channels": None}, "not a checkpoint|lacks"),
    ],
)
def test_settings_that_do_not_fit_together_are_told(
    changes: dict[str, Any],
    says: str,
    register: Callable[..., Registered],
    linear: torch.nn.Module,
    write_checkpoint: Write,
) -> None:
    with pytest.raises(UserError, match=says):
        register(checkpoint=write_checkpoint(linear, "odd", **changes))


def test_a_folder_that_is_no_checkpoint_is_told(register: Callable[..., Registered], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint"):
        register(checkpoint=tmp_path / "nowhere")


@pytest.mark.parametrize("bad", ["team/digits", "", "ann's", 'the "best"'])
def test_a_name_that_mlflow_refuses_is_a_users_mistake(bad: str, register: Callable[..., Registered]) -> None:
    with pytest.raises(UserError):
        register(name=bad)


def test_a_long_card_is_shortened_for_the_registry_and_kept_whole_in_the_model(
    store: Store, name: str, register: Callable[..., Registered], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = register(model_card="x" * 9000)
    assert len(versions(store, name)[0].description) == 5000
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    folder = Path(mlflow.artifacts.download_artifacts(made.uri))
    assert (folder / "artifacts" / "README.md").read_text() == "x" * 9000
