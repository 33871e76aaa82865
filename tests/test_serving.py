"""`mlflow models serve` and `mlflow models predict` on a champion, in a folder without the checkout."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.tracking.registry.champion import move_champion
from pipeline.tracking.registry.versions import register_model
from pipeline.tracking.store import prepare_store, resolve_store

pytestmark = pytest.mark.slow

TINY = ModelConfig(
    "vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}, "xavier", 0.0
)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1), dtype=np.uint8)
URI = "models:/served@champion"


@pytest.fixture(scope="module")
def expected() -> Iterator[np.ndarray]:
    """Probabilities (3, classes) of the network itself, which `network` registers."""
    with torch.inference_mode():
        yield _network()((torch.tensor(PIXELS).permute(0, 3, 1, 2) / 255 - 0.4) / 0.3).softmax(1).numpy()


def _network() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(TINY, num_classes=3, image_size=(12, 12), channels=1).eval()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where and with what environment to run MLflow's commands: a registered champion, no checkout."""
    root, empty = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("elsewhere")
    save_file(_network().state_dict(), root / "weights.safetensors")
    sidecar = {"format": 1, "model": asdict(TINY), "num_classes": 3, "image_size": [12, 12], "channels": 1}
    sidecar |= {"classes": ["zero", "one", "two"], "mean": [0.4], "std": [0.3]}
    (root / "checkpoint.json").write_text(json.dumps(sidecar))
    store = resolve_store(None, root)
    prepare_store(store)
    networks = Path(__file__).parents[1] / "pipeline" / "models"
    register_model(store, name="served", checkpoint=root, code=networks, model_card="#", tags={}, run_id=None, input_example=PIXELS)  # fmt: skip
    move_champion(store, "served", 1, expected=None, reason=None)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return {"cwd": empty, "env": environment | {"MLFLOW_TRACKING_URI": store.uri, "PATH": path}}


def _png(image: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(image[..., 0]).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.fixture(scope="module")
def server(elsewhere: dict[str, Any]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        URI,
        "--env-manager",
        "local",
        "-p",
        str(port),
    ]
    with (elsewhere["cwd"].parent / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **elsewhere)
    try:
        for _ in range(240):
            assert process.poll() is None, Path(log.name).read_text()[-3000:]
            try:
                with urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                    break
            except (URLError, OSError):
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _asked(server: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = Request(server, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        rows: list[dict[str, Any]] = json.load(answer)["predictions"]
    return rows


def _shares(rows: list[dict[str, Any]]) -> list[list[float]]:
    return [list(row["probabilities"].values()) for row in rows]


def test_a_server_answers_arrays_and_pictures_singly_and_together(server: str, expected: np.ndarray) -> None:
    np.testing.assert_allclose(_shares(_asked(server, {"inputs": PIXELS.tolist()})), expected, rtol=0, atol=1e-5)
    files = [_png(image) for image in PIXELS]
    np.testing.assert_allclose(_shares(_asked(server, {"inputs": files})), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(_shares(_asked(server, {"inputs": files[0]})), expected[:1], rtol=0, atol=1e-5)


def test_a_bad_image_gets_its_own_error_and_the_server_goes_on(server: str, expected: np.ndarray) -> None:
    body = {"inputs": [_png(PIXELS[0]), "rubbish", [[[1, 2, 3]]], []], "params": {"attention": True}}
    rows = _asked(server, body)
    assert [bool(row["error"]) for row in rows] == [False, True, True, True]
    assert np.shape(rows[0]["attention"]) == (6, 6)
    with pytest.raises(HTTPError):
        _asked(server, {"inputs": [_png(PIXELS[0])], "params": {"batch_size": 0}})
    np.testing.assert_allclose(_shares(_asked(server, {"inputs": [_png(PIXELS[1])]})), expected[1:2], rtol=0, atol=1e-5)


def test_a_request_of_the_wrong_form_is_refused_and_an_unknown_parameter_is_ignored(server: str) -> None:
    """As docs/registry/serving.md tells it."""
    image = _png(PIXELS[0])
    for body, where, said in [
        ({"input": [image]}, "message", "Failed to enforce schema"),
        ({"inputs": [image], "params": {"attention": "yes"}}, "message", "Invalid parameters found: {('attention'"),
        ({"inputs": [image], "params": {"batch_size": 0}}, "stack_trace", "batch_size must be at least 1"),
    ]:
        with pytest.raises(HTTPError) as refused:
            _asked(server, body)
        assert refused.value.code == 400, body
        assert said in json.loads(refused.value.read())[where]
    (row,) = _asked(server, {"inputs": [image], "params": {"atention": True}})
    assert row["error"] is None
    assert "attention" not in row


def test_predict_of_mlflow_answers_a_file(elsewhere: dict[str, Any], expected: np.ndarray) -> None:
    (elsewhere["cwd"] / "request.json").write_text(json.dumps({"inputs": [_png(image) for image in PIXELS]}))
    command = [sys.executable, "-P", "-m", "mlflow", "models", "predict", "-m", URI, "--env-manager", "local"]
    command += ["-t", "json", "-i", "request.json", "-o", "answer.json"]
    subprocess.run(command, check=True, capture_output=True, timeout=300, **elsewhere)
    rows = json.loads((elsewhere["cwd"] / "answer.json").read_text())["predictions"]
    np.testing.assert_allclose(_shares(rows), expected, rtol=0, atol=1e-5)
