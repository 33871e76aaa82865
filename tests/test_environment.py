"""Variables that packages read by themselves lead nothing elsewhere. By the packages themselves, not by stand-ins."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest
from copied import ROOT

from pipeline.cli import FilePath
from pipeline.environment import LEFT_ALONE, TAKEN_OUT, clean_environment
from pipeline.errors import UserError
from pipeline.provenance.trace import commit
from pipeline.tracking.store import prepare_store, resolve_store

ELSEWHERE = {
    "MLFLOW_REGISTRY_URI": "sqlite:////nowhere/registry.db",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI": "sqlite:////nowhere/replica.db",
    "MLFLOW_RUN_ID": "0" * 32,
    "MLFLOW_EXPERIMENT_ID": "999",
    "MLFLOW_EXPERIMENT_NAME": "another",
    "MLFLOW_RUN_CONTEXT": '{"another": "program"}',
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "/nowhere",
    "RAY_NAMESPACE": "another",
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 77}',
    "RAY_RUNTIME_ENV_HOOK": "nowhere.hook",
    "RAY_CHDIR_TO_TRIAL_DIR": "1",
    "TUNE_RESULT_DIR": "/nowhere/results",
    "TUNE_RESULT_BUFFER_LENGTH": "50",
    "OPTUNA_STORAGE": "sqlite:////nowhere/study.db",
    "DVC_EXP_NAME": "left-over",
    "GIT_INDEX_FILE": "/nowhere/index",
}

ASKED = """
import json, os, sys
from pathlib import Path
from pipeline.environment import clean_environment
clean_environment(typed=True)
import mlflow
from mlflow.tracking._model_registry.utils import get_registry_uri
from pipeline.provenance.trace import trace
mlflow.set_tracking_uri("sqlite:///here.db")
print(json.dumps({
    "registry": get_registry_uri(),
    "trace": trace(Path(sys.argv[1]), "d"),
    "left": sorted(set(os.environ) & set(json.loads(sys.argv[2]))),
}))
"""


def _repository(folder: Path) -> Path:
    folder.mkdir()
    (folder / "file").write_text(folder.name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", folder.name]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], cwd=folder, check=True)
    return folder


def test_no_package_is_led_elsewhere_by_what_an_entry_finds_in_its_environment(tmp_path: Path) -> None:
    here, other = _repository(tmp_path / "here"), _repository(tmp_path / "other")
    led = ELSEWHERE | {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}
    command = [sys.executable, "-W", "ignore", "-c", ASKED, str(here), json.dumps([*led])]
    environment = os.environ | led | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["registry"] == "sqlite:///here.db"
    assert found["trace"]["sar.commit"] == commit(here) != commit(other)
    assert "sar.dvc_experiment" not in found["trace"]
    assert found["left"] == []


def test_a_stage_of_an_experiment_keeps_the_experiments_name_and_a_command_does_not() -> None:
    variables = {"DVC_EXP_NAME": "mild-gulf", "DVC_ROOT": "/elsewhere", "PATH": "/bin"}
    assert clean_environment(dict(variables)) == ["DVC_ROOT"]
    assert clean_environment(dict(variables), typed=True) == ["DVC_EXP_NAME", "DVC_ROOT"]


@pytest.mark.parametrize("command", [["pipeline.cli", "status"], ["pipeline.stages.split"]], ids=["command", "stage"])
def test_every_entry_begins_by_it(command: list[str], tmp_path: Path) -> None:
    """What an entry starts has what it has: here, the user's own site, which is asked when it ends."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os; atexit.register(lambda: print('GIT_DIR' in os.environ, 'MLFLOW_RUN_ID' in os.environ))"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "GIT_DIR": "/x", "MLFLOW_RUN_ID": "x"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2  # no checkout here
    assert done.stdout.splitlines()[-1] == "False False"


def test_credentials_caches_and_addresses_that_the_plan_tells_stay() -> None:
    kept = {"MLFLOW_TRACKING_URI": "http://h", "MLFLOW_TRACKING_TOKEN": "t", "RAY_ADDRESS": "auto", "HF_HOME": "/h"}
    kept |= {"GIT_CONFIG_COUNT": "0", "DVC_SITE_CACHE_DIR": "/s", "CUDA_VISIBLE_DEVICES": "", "AWS_ACCESS_KEY_ID": "k"}
    variables = dict(kept)
    assert clean_environment(variables, typed=True) == []
    assert kept.items() <= variables.items()


def test_the_page_on_them_names_every_one_that_is_taken_out() -> None:
    page = (ROOT / "docs" / "environment.md").read_text()
    assert [name for name in [*TAKEN_OUT, *LEFT_ALONE] if f"`{name}`" not in page] == []


def test_an_option_that_names_a_file_knows_the_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert FilePath().convert("~/model.onnx", None, None) == Path("/home/ann/model.onnx")
    with pytest.raises(click.BadParameter, match="~nobody-here is nobody's home folder"):
        FilePath().convert("~nobody-here/model.onnx", None, None)


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(404)
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_on_loopback_is_asked_past_every_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("no_proxy", "")
    with HTTPServer(("127.0.0.1", 0), _Server) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = resolve_store(f"http://127.0.0.1:{server.server_port}", tmp_path)
        with pytest.raises(UserError, match=r"no answer by way of the proxy http://127\.0\.0\.1:9.*NO_PROXY=127"):
            prepare_store(store, timeout_s=5)
        clean_environment()
        with pytest.raises(UserError, match="404"):  # it is asked, and is no MLflow
            prepare_store(store, timeout_s=5)
        assert any(path.startswith("/api") for path in server.asked)  # type: ignore[attr-defined]
        server.shutdown()
    assert os.environ["NO_PROXY"].split(",") == ["intranet", "127.0.0.1", "localhost", "::1"]


def test_a_proxy_that_holds_a_password_is_named_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://ann:s3cret@127.0.0.1:9")
    with pytest.raises(UserError, match=r"the proxy http://127\.0\.0\.1:9, ") as refused:
        prepare_store(resolve_store("http://tracking.invalid:5000", tmp_path), timeout_s=5)
    assert "s3cret" not in str(refused.value)
