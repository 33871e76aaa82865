"""The store is found wherever a command runs, and what cannot be used is told at once and in plain words."""

import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url

from pipeline.errors import UserError
from pipeline.tracking import store as room
from pipeline.tracking.store import (
    Store,
    client,
    experiment_id,
    prepare_store,
    refusal,
    resolve_store,
    user_name,
)
from pipeline.tracking.ui import remove_stray_folder


def test_the_default_is_a_file_in_the_checkout_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resolve_store(None, tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_store(None, Path("..")).database == tmp_path / "mlflow.db"


def test_a_relative_path_counts_from_the_checkout_whoever_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///state/runs.db")
    assert resolve_store(None, tmp_path).database == tmp_path / "state" / "runs.db"
    assert resolve_store("sqlite:///mine.db", tmp_path).database == tmp_path / "mine.db"  # parameters go first
    assert resolve_store("sqlite:////srv/runs.db", tmp_path).database == Path("/srv/runs.db")


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("sqlite://", "sqlite:///FILE"),
        ("sqlite:///:memory:", "in memory"),
        ("mlruns", "plain folders"),
        ("file:///srv/mlruns", "plain folders"),
        ("postgresql://ann:secret@db/runs", "mlflow server"),
        ("http://", "http"),
    ],
)
def test_other_kinds_of_stores_are_refused_with_what_to_give_instead(uri: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=hint) as refused:
        resolve_store(uri, tmp_path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:////~/x.db", "a folder '~' in the root folder; for a file in a home folder, write sqlite:///~/x.db"),
        ("sqlite:////~ann/x.db", "write sqlite:///~ann/x.db"),
        ("sqlite:///a b?mode=ro&x=%20", "takes no options"),
        ("sqlite:///docs", "docs is a folder; give a file in it, as sqlite:///"),
        ("sqlite:///new/", "new is a folder; give a file in it, as sqlite:///"),
        ("SQLITE:///x.db", "write sqlite:///x.db"),
        ("sqlite+pysqlite:////srv/x.db", "write sqlite:////srv/x.db"),
    ],
)
def test_addresses_that_would_lead_elsewhere_are_refused_with_what_to_write(
    uri: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    with pytest.raises(UserError, match=r"^tracking\.uri: ") as refused:
        resolve_store(uri, tmp_path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [each.name for each in tmp_path.iterdir()] == ["docs"]


def test_a_parameter_that_holds_a_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        resolve_store("https://ann:s3cret@mlflow.example:5000", tmp_path)
    assert str(refused.value).startswith("tracking.uri holds")
    assert "https://mlflow.example:5000" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_credentials_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:s3cret%21@mlflow.example:5000/team/")
    store = resolve_store(None, tmp_path)
    assert store.shown == "https://mlflow.example:5000/team"
    assert store.scrubbed(f"GET {store.uri}/api: s3cret%21, s3cret! refused") == (
        "GET https://mlflow.example:5000/team/api: ***, *** refused"
    )
    assert "s3cret" not in repr(store)


def test_the_person_at_work_is_the_servers_account_and_else_the_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ubuntu")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where MLflow may keep credentials
    server, file = (resolve_store(uri, tmp_path) for uri in ("http://mlflow.example:5000", "sqlite:///mlflow.db"))
    assert user_name(server) == user_name(file) == "ubuntu"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    assert (user_name(server), user_name(file)) == ("ann", "ubuntu")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob%40b:secret@mlflow.example:5000")
    assert user_name(resolve_store(None, tmp_path)) == "bob@b"


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"taken/mlflow\.db cannot be used"):
        prepare_store(resolve_store("sqlite:///taken/mlflow.db", tmp_path))


def test_a_file_that_is_no_database_is_left_alone_and_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("These are not the runs you are looking for. " * 50)
    with pytest.raises(UserError, match=r"not a database\n.*move"):
        prepare_store(resolve_store(None, tmp_path))
    assert (tmp_path / "mlflow.db").read_text().startswith("These are not")


def test_a_database_that_another_holds_is_told_within_the_time(store: Store) -> None:
    assert store.database
    with closing(sqlite3.connect(store.database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        before = time.monotonic()
        with pytest.raises(UserError, match="locked"):
            prepare_store(store, timeout_s=0.1)
    assert time.monotonic() - before < 5  # MLflow alone would wait for twenty seconds


def test_processes_take_turns_at_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SCHEMA_WAIT_S", 0.1)
    with (
        FileLock(tmp_path / "mlflow.db.lock"),
        pytest.raises(UserError, match=r"mlflow\.db\.lock"),
    ):
        prepare_store(resolve_store(None, tmp_path))
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_processes_that_start_together_on_nothing_all_get_the_store(
    tmp_path: Path,
) -> None:
    program = (
        "import sys; from pathlib import Path; from pipeline.tracking.store import *; "
        "store = resolve_store(None, Path(sys.argv[1])); prepare_store(store); print(experiment_id(store, 'together'))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    answers = [each.communicate(timeout=300)[0].strip() for each in started]
    assert [each.returncode for each in started] == [0] * 4
    assert len(set(answers)) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE alembic_version SET version_num = '451aebb31d03'", "run mlflow db upgrade "),
        ("UPDATE alembic_version SET version_num = 'ffffffffffff'", "made by another version of MLflow"),
        ("ALTER TABLE experiments RENAME COLUMN name TO other", "mlflow.db away, or set tracking.uri to another file"),
    ],
)
def test_a_schema_that_will_not_do_is_told_with_the_way_out(
    store: Store, tmp_path: Path, change: str, said: str
) -> None:
    root = tmp_path / "o'ff"
    root.mkdir()
    copy = resolve_store(None, root)
    assert store.database
    assert copy.database
    copy.database.write_bytes(store.database.read_bytes())
    with closing(sqlite3.connect(copy.database)) as database:
        database.execute(change)
        database.commit()
    with pytest.raises(UserError) as refused:
        prepare_store(copy)
    advice = str(refused.value).splitlines()[1]
    assert said in advice
    if "mlflow db upgrade" in advice:
        assert shlex.split(advice)[-1] == copy.uri  # what a shell makes of it
    assert ("another version" in advice) == ("version_num" in change)


class _Stranger(BaseHTTPRequestHandler):
    """A web server that knows no MLflow: it welcomes everyone, and below /busy it is always about to come back."""

    def do_GET(self) -> None:
        self.send_response(503 if self.path.startswith("/busy/api") else 200)
        self.end_headers()
        self.wfile.write(b"welcome")

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is MLFLOW_TRACKING_URI."""
    with HTTPServer(("127.0.0.1", 0), _Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


@pytest.mark.usefixtures("stranger")
def test_a_server_that_is_not_mlflow_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seems to be no MLflow server .*\n.*give the address and the port") as refused:
        prepare_store(resolve_store(None, tmp_path), timeout_s=5)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        (
            "Caused by NewConnectionError('[Errno 111] Connection refused')",
            "connection refused, nothing listens there",
        ),
        ("Caused by NameResolutionError(\"Failed to resolve 'a'\")", "there is no address for its name"),
        ("Caused by ReadTimeoutError('Read timed out. (read timeout=9)')", "it did not answer in time"),
        ("('Connection aborted.', RemoteDisconnected('closed'))", "it broke off the connection"),
        ("Caused by ProxyError('Unable to connect to proxy', '[Errno 111] Connection refused')", "the proxy that"),
        ("Caused by ResponseError('too many 502 error responses')", "it answers with an error of its own (status 502)"),
    ],
)
def test_why_a_server_is_not_reached_is_told_in_plain_words(said: str, plain: str, tmp_path: Path) -> None:
    error = MlflowException(f"API request to http://a/api/2.0/mlflow/runs failed with exception {said}")
    reason, _ = refusal(Store("http://a", tmp_path), error)
    assert reason.startswith(plain)
    other = MlflowException("INTERNAL_ERROR: the database says: Connection refused")  # a server's own words
    assert refusal(Store("http://a", tmp_path), other)[0] == str(other)


def test_server_that_cannot_store_files_is_told_with_its_status(tmp_path: Path) -> None:
    request = "API request to http://a/api/2.0/mlflow-artifacts/artifacts/1/x failed with exception"
    error = MlflowException(f"{request} Caused by ResponseError('too many 500 error responses')")
    reason, advice = refusal(Store("http://a", tmp_path), error)
    assert reason == "it answers, but fails to store or read files (status 500)"
    assert "is the bucket there?" in advice


@pytest.mark.usefixtures("stranger")
def test_a_server_that_is_about_to_come_back_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", os.environ["MLFLOW_TRACKING_URI"] + "/busy")
    before = time.monotonic()
    with pytest.raises(UserError, match="503"):
        prepare_store(resolve_store(None, tmp_path), timeout_s=5)
    assert time.monotonic() - before < 3  # MLflow would ask again for minutes


def test_an_address_where_nothing_listens_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@127.0.0.1:{unused.getsockname()[1]}")
        store = resolve_store(None, tmp_path)
        before = time.monotonic()
        with pytest.raises(UserError, match="no answer") as refused:
            prepare_store(store)
    assert time.monotonic() - before < 5
    assert "s3cret" not in str(refused.value)


def test_a_server_that_never_answers_is_given_up_on(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        before = time.monotonic()
        with pytest.raises(UserError, match="no answer"):
            prepare_store(
                resolve_store(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path),
                timeout_s=0.3,
            )
    assert time.monotonic() - before < 5


def test_an_experiment_keeps_its_artifacts_in_the_checkout(store: Store, experiment: str) -> None:
    made = experiment_id(store, experiment)
    location = client(store).get_experiment(made).artifact_location
    assert location.startswith((store.root / "mlartifacts").as_uri())
    assert experiment_id(store, experiment) == made


def test_names_that_look_alike_as_folders_keep_apart(store: Store, experiment: str) -> None:
    ids = [experiment_id(store, experiment + end) for end in ("/a", "-a")]
    first, second = (client(store).get_experiment(each).artifact_location for each in ids)
    assert first != second


def test_a_deleted_experiment_is_restored(store: Store, experiment: str) -> None:
    made = experiment_id(store, experiment)
    client(store).delete_experiment(made)
    assert experiment_id(store, experiment) == made
    assert client(store).get_experiment(made).lifecycle_stage == "active"


def test_an_experiment_that_another_process_makes_meanwhile_is_taken(
    store: Store, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment_id(store, experiment)
    real, asked = MlflowClient.get_experiment_by_name, []

    def late(self: MlflowClient, name: str) -> object:
        asked.append(name)
        return real(self, name) if len(asked) > 1 else None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    assert experiment_id(store, experiment) == made


def _run_with_a_file(store: Store, experiment: str, text: str) -> str:
    """The id of a run that has a file."""
    run = client(store).create_run(experiment_id(store, experiment)).info.run_id
    client(store).log_text(run, text, "file.txt")
    return str(run)


def _read(store: Store, run: str) -> str:
    with TemporaryDirectory() as folder:
        return Path(client(store).download_artifacts(run, "file.txt", folder)).read_text()


@pytest.mark.parametrize("way", ["moved", "copied"])
def test_a_checkout_that_lies_elsewhere_now_has_its_artifacts_with_it(
    store: Store, experiment: str, tmp_path: Path, way: str
) -> None:
    assert store.database
    old, new = tmp_path / "old place", tmp_path / "new ä place"
    old.mkdir()
    (old / "mlflow.db").write_bytes(store.database.read_bytes())
    run = _run_with_a_file(resolve_store(None, old), experiment, "before")
    if way == "moved":
        old.rename(new)
    else:
        shutil.copytree(old, new)
        (old / "mlartifacts").rename(old / "as it was")
        shutil.copytree(old / "as it was", old / "mlartifacts")
    here = resolve_store(None, new)
    prepare_store(here)
    assert _read(here, run) == "before"
    again = _run_with_a_file(here, experiment, "after")
    places = [client(here).get_run(each).info.artifact_uri for each in (run, again)]
    assert [Path(url2pathname(urlsplit(place).path)).is_relative_to(new) for place in places] == [True, True]
    if way == "copied":  # and the one that it was copied from is as it was
        assert len(list((old / "mlartifacts").rglob("file.txt"))) == 1
        assert _read(resolve_store(None, old), run) == "before"


def test_artifacts_of_another_checkout_in_a_shared_database_stay_where_they_are(
    store: Store, experiment: str, tmp_path: Path
) -> None:
    assert store.database
    shared, one, other = (tmp_path / name for name in ("shared", "one", "other"))
    for folder in (shared, one, other):
        folder.mkdir()
    (shared / "runs.db").write_bytes(store.database.read_bytes())
    run = _run_with_a_file(resolve_store(f"sqlite:///{shared}/runs.db", one), experiment, "one's")
    there = resolve_store(f"sqlite:///{shared}/runs.db", other)
    prepare_store(there)
    assert _read(there, run) == "one's"
    one.rename(tmp_path / "gone")
    with pytest.raises(UserError, match="was the checkout moved"):
        experiment_id(there, experiment)


@pytest.mark.parametrize("name", ["with space", "a#b", "100%", "50%25", "a%20b", "what?", "größe-网络", "a+b&c=d;e"])
def test_a_store_works_whatever_the_path_of_its_checkout(
    store: Store, experiment: str, tmp_path: Path, name: str
) -> None:
    assert store.database
    root = tmp_path / name
    root.mkdir()
    (root / "mlflow.db").write_bytes(store.database.read_bytes())
    here = resolve_store(None, root)
    assert here.database == root / "mlflow.db"
    assert here.shown == f"sqlite:///{root}/mlflow.db"
    prepare_store(here)
    assert [each.name for each in tmp_path.iterdir()] == [name]  # nor for a moment, for a command that goes wrong now
    run = _run_with_a_file(here, experiment, "kept")
    assert _read(here, run) == "kept"
    assert list((root / "mlartifacts").rglob("file.txt"))
    assert sorted(each.name for each in tmp_path.iterdir()) == [name]  # and nothing beside it


def test_what_mlflows_own_server_leaves_beside_a_checkout_goes_with_it(tmp_path: Path) -> None:
    store = resolve_store(None, tmp_path / "what?" / "x")
    stray = Path(store.uri.removeprefix("sqlite:///")).parent
    assert store.database
    stray.mkdir(parents=True)
    remove_stray_folder(store.uri, store.database)
    assert list(tmp_path.iterdir()) == []
    stray.mkdir(parents=True)
    (stray / "mine").touch()
    remove_stray_folder(store.uri, store.database)
    assert (stray / "mine").exists()


def test_an_address_is_read_as_sqlalchemy_reads_it(tmp_path: Path) -> None:
    for given in ("sqlite:///a%20b.db", "sqlite:///a%2Fb.db", "sqlite:////srv/100%.db"):
        store = resolve_store(given, tmp_path)
        assert store.database
        assert make_url(store.uri).database == str(tmp_path / str(make_url(given).database)) == str(store.database)


def test_a_tilde_in_an_address_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve_store("sqlite:///~/runs.db", tmp_path).database == tmp_path / "home" / "runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~/runs.db")
    assert resolve_store(None, tmp_path).database == tmp_path / "home" / "runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~nobody-here/runs.db")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI: ~nobody-here is nobody's home folder"):
        resolve_store(None, tmp_path)


def test_a_name_that_mlflow_refuses_is_a_users_mistake(store: Store) -> None:
    with pytest.raises(UserError, match="opening the experiment"):
        experiment_id(store, "x" * 501)


def test_mlflow_reports_nothing_home_unless_the_user_says_so() -> None:
    """In a process with nothing set, as a stage's under `dvc repro` is."""
    script = (
        "import pipeline.tracking.store; from mlflow.telemetry import get_telemetry_client as c; print(c() is None)"
    )
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=bare, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
